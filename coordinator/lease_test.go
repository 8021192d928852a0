package coordinator

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

const single = `
job:
  script: make
`

// requireCode checks the code and the status of a refused call.
func requireCode(t *testing.T, err error, status int, code api.Code) *api.Error {
	t.Helper()
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, status, e.HTTP, e.Text)
	require.Equal(t, code, e.Code, e.Text)
	return e
}

// A host that is silent for the time of its lease loses its job, and can't end it
// any more when it comes back.
func TestHostLost(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	p := b.submit(single)
	old := a.claim()
	a.begin(old)
	b.advance(31 * time.Second)
	require.Equal(t, api.StatusQueued, b.job(p, "job").Status)
	require.Equal(t, api.HostLost, b.s.showHosts()[0].State)

	other := b.newHost("b", 1)
	c := other.claim()
	require.Equal(t, 2, c.Number)
	require.Equal(t, old.Epoch+1, c.Epoch)
	require.NotEqual(t, old.Attempt, c.Attempt)

	// The old host is told in every way it can ask.
	_, err := a.end(old, api.Finish{Status: api.StatusSuccess, Output: newID(t)})
	requireCode(t, err, http.StatusConflict, api.CodeFenced)
	_, err = a.c.AppendLog(t.Context(), ref(old), 0, []byte("x"))
	requireCode(t, err, http.StatusConflict, api.CodeFenced)
	requireCode(t, a.c.Accept(t.Context(), ref(old)), http.StatusConflict, api.CodeFenced)
	_, err = a.c.Heartbeat(t.Context(), a.id, api.Heartbeat{Session: a.reg.Session})
	requireCode(t, err, http.StatusNotFound, api.CodeNotFound)
	a.reg.Attempts = []api.AttemptRef{ref(old)}
	require.Equal(t, []snapshot.ID{old.Attempt}, a.register().Ended)

	other.begin(c)
	out := other.succeed(c)
	require.Equal(t, out, b.job(p, "job").Workspace.Output)
	d, err := b.user.Job(t.Context(), b.job(p, "job").ID)
	require.NoError(t, err)
	require.Len(t, d.Attempts, 2)
	require.Equal(t, api.FailHostLost, d.Attempts[0].Code)
}

// A wrong epoch is refused even for the right attempt.
func TestEpoch(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	b.submit(single)
	c := a.claim()
	wrong := ref(c)
	wrong.Epoch++
	requireCode(t, a.c.Accept(t.Context(), wrong), http.StatusConflict, api.CodeFenced)
	require.NoError(t, a.c.Accept(t.Context(), ref(c)))
	require.NoError(t, a.c.Accept(t.Context(), ref(c)), "a second accept is as good as the first")
}

// Time in which the coordinator itself did not run is not held against hosts.
func TestCoordinatorAsleep(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	p := b.submit(single)
	a.begin(a.claim())
	b.clock.mu.Lock()
	b.clock.now = b.clock.now.Add(time.Hour)
	b.clock.mu.Unlock()
	b.advance(time.Second)
	require.Equal(t, api.StatusRunning, b.job(p, "job").Status)
	b.advance(32 * time.Second)
	require.Equal(t, api.StatusQueued, b.job(p, "job").Status)
}

// Heartbeats keep a host and its job for as long as they come.
func TestHeartbeatRenews(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	p := b.submit(single)
	c := a.claim()
	a.begin(c)
	for range 5 {
		b.advance(20 * time.Second)
		a.beat(func(h *api.Heartbeat) { h.Attempts = []api.AttemptRef{ref(c)} })
	}
	require.Equal(t, api.StatusRunning, b.job(p, "job").Status)
	// A host that lives but does not know the job any more has lost it.
	for range 3 {
		b.advance(20 * time.Second)
		a.beat()
	}
	require.Equal(t, api.StatusQueued, b.job(p, "job").Status)
}

// A claim that nobody accepts goes to another host under the next epoch.
func TestAcceptTimeout(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	b.submit(single)
	c := a.claim()
	other := b.newHost("b", 1)
	b.advance(11 * time.Second)
	d := other.claim()
	require.Equal(t, c.Epoch+1, d.Epoch)
	requireCode(t, a.c.Accept(t.Context(), ref(c)), http.StatusConflict, api.CodeFenced)
}

// A claim whose answer was lost is told again, the same one.
func TestRedelivery(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	b.submit(single)
	c := a.claim()
	require.Empty(t, a.poll(), "it is not told twice at once")
	b.advance(3 * time.Second)
	again := a.claim()
	require.Equal(t, c, again)
	require.NoError(t, a.c.Accept(t.Context(), ref(c)))
	b.advance(3 * time.Second)
	a.free = 0
	require.Empty(t, a.poll())
}

func TestNameTaken(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	b.advance(10 * time.Second)
	reg := a.reg
	reg.StoreID, reg.Session = newID(t), newID(t)
	_, err := a.c.Register(t.Context(), reg)
	e := requireCode(t, err, http.StatusConflict, api.CodeNameTaken)
	require.Contains(t, e.Text, `"a"`)
	require.Contains(t, e.Text, "2030-01-02T03:04:05Z")
	require.Contains(t, e.Text, string(a.reg.StoreID))
	require.Contains(t, e.Text, "10 s ago")

	// The same store takes its name over at once, under a new session.
	old := a.reg.Session
	a.reg.Session = newID(t)
	a.register()
	_, err = a.c.Heartbeat(t.Context(), a.id, api.Heartbeat{Session: old})
	requireCode(t, err, http.StatusNotFound, api.CodeNotFound)

	// Good-bye frees the name, and so does silence.
	require.NoError(t, a.c.Leave(t.Context(), a.id, api.Leave{Session: a.reg.Session}))
	reg.Session = newID(t)
	r, err := a.c.Register(t.Context(), reg)
	require.NoError(t, err)
	require.NotEqual(t, a.id, r.Agent)
	b.advance(31 * time.Second)
	a.reg.Session = newID(t)
	a.register()
}

// An agent that comes back in a new session without its job has lost it; a job
// that it lists goes on.
func TestAgentRestarts(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 2)
	p := b.submit("one:\n  script: x\ntwo:\n  script: x\n")
	cs := a.claims(2)
	c, d := cs[0], cs[1]
	a.begin(c)
	a.begin(d)
	stranger := api.AttemptRef{Attempt: newID(t), Epoch: 1}
	a.reg.Session, a.reg.Attempts, a.free = newID(t), []api.AttemptRef{ref(c), stranger}, 1
	r := a.register()
	require.Equal(t, []snapshot.ID{stranger.Attempt}, r.Ended)
	require.Equal(t, api.StatusRunning, b.job(p, "one").Status)
	two := b.job(p, "two")
	require.NotEqual(t, d.Attempt, two.AttemptID, "two got a new attempt at once, the only host being this one")
	det, err := b.user.Job(t.Context(), two.ID)
	require.NoError(t, err)
	require.Equal(t, api.FailAgentDied, det.Attempts[0].Code)
	a.succeed(c)
	require.Equal(t, api.StatusSuccess, b.job(p, "one").Status)
}

// The same store under a new name keeps what it still runs.
func TestHostRenamed(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	p := b.submit(single)
	c := a.claim()
	a.begin(c)
	a.reg.Name, a.reg.Session, a.reg.Attempts = "z", newID(t), []api.AttemptRef{ref(c)}
	require.Empty(t, a.register().Ended)
	a.succeed(c)
	require.Equal(t, "z", b.job(p, "job").Host)
	hosts, err := b.user.Hosts(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.HostLeft, hosts[0].State)
	require.Equal(t, 0, hosts[0].Running)
	require.Equal(t, 0, hosts[1].Running)
}

// A finish is answered the same way as often as it is repeated, also when its
// pipeline is long over, and its host is not told meanwhile that it is fenced.
func TestFinishTwice(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	p := b.submit(single)
	c := a.claim()
	a.begin(c)
	out := a.succeed(c)
	require.Equal(t, api.StatusSuccess, b.status(p))
	again := api.Finish{Status: api.StatusFailed, Output: newID(t)}
	for range 2 {
		got, err := a.c.Finish(t.Context(), ref(c), again)
		require.NoError(t, err)
		require.True(t, got.Output, "the first outcome counts")
		r := a.beat(func(h *api.Heartbeat) { h.Attempts = []api.AttemptRef{ref(c)} })
		require.Empty(t, r.Fenced)
		a.reg.Session, a.reg.Attempts = newID(t), []api.AttemptRef{ref(c)}
		require.Empty(t, a.register().Ended)
		b.restart()
		a.register()
	}
	require.Equal(t, out, b.job(p, "job").Workspace.Output)
	require.Equal(t, api.StatusSuccess, b.job(p, "job").Status)
}

// People see what went for want of room, on a page and by the API.
func TestEvictionsAreShown(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	page := func() string {
		res, text := b.try(http.MethodGet, "/", userToken)
		require.Equal(t, 200, res.StatusCode)
		return text
	}
	require.NotContains(t, page(), "3 (5.0 MiB)")
	a.beat(func(h *api.Heartbeat) { h.Evicted, h.EvictedBytes = 3, 5<<20 })
	require.Contains(t, page(), "3 (5.0 MiB)")
	hosts, err := b.user.Hosts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int64{3, 5 << 20}, []int64{hosts[0].Evicted, hosts[0].EvictedBytes})
}
