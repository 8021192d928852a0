package coordinator

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// A host that was lost with a job that it had accepted: GitLab is told until it
// answers, also by the next coordinator, and the job is not run again.
func TestGitLabHostLost(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	l.add(11, "build", "one")
	c := h.takes()
	h.begin(c)
	l.mu.Lock()
	l.jobs[11].state, l.jobs[11].trace = "running", []byte("the runner's own\n")
	down := true
	l.fault = func(w http.ResponseWriter, r *http.Request, after func()) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if down && strings.HasPrefix(r.URL.Path, "/api/v4/jobs/11") {
			w.WriteHeader(502)
			return true
		}
		return false
	}
	l.mu.Unlock()
	h.gone()
	p := onlyPipeline(t, b)
	require.Equal(t, api.StatusFailed, b.job(p, "build").Status)
	require.Equal(t, api.FailHostLost, b.job(p, "build").Code)
	time.Sleep(100 * time.Millisecond)
	b.restart()
	require.Zero(t, l.get(11).ends)
	l.mu.Lock()
	down = false
	l.mu.Unlock()
	eventually(t, "told", func() bool { return l.get(11).ends == 1 })
	j := l.get(11)
	require.Equal(t, "failed", j.state)
	require.Equal(t, "runner_system_failure", j.reason)
	require.True(t, strings.HasPrefix(string(j.trace), "the runner's own\n"))
	h2 := b.newLabHost(l, "host-b", 1)
	require.Empty(t, h2.offer(300*time.Millisecond))
	require.Equal(t, 1, l.get(11).ends)
	require.Empty(t, payloads(t, b), "nothing of it is kept")
	_, err := h2.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusSuccess})
	require.ErrorIs(t, err, &api.Error{Code: api.CodeFenced})
}

// Until a runner saw it, a job goes from host to host under rising epochs, without a
// word to GitLab.
func TestGitLabNextHost(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) { o.AcceptTimeout = 3 * time.Second })
	a := b.newLabHost(l, "host-a", 1)
	l.add(11, "build", "one")
	first := a.takes()
	require.Equal(t, int64(1), first.Epoch)
	h := b.newLabHost(l, "host-b", 1)
	second := h.takes() // host-a never accepted
	require.Equal(t, int64(2), second.Epoch)
	require.ErrorIs(t, a.c.Accept(t.Context(), ref(first)), &api.Error{Code: api.CodeFenced})
	require.NoError(t, h.c.Accept(t.Context(), ref(second)))
	_, err := h.c.Finish(t.Context(), ref(second), api.Finish{
		Status: api.StatusFailed, Infrastructure: true, Undelivered: true, Code: api.FailUndelivered, Reason: "its runner went away",
	})
	require.NoError(t, err)
	c := b.newLabHost(l, "host-c", 1)
	third := c.takes()
	require.Equal(t, int64(3), third.Epoch)
	j := l.get(11)
	require.Equal(t, string(j.trace), string(third.External.Log))
	require.Contains(t, string(third.External.Log), "gave it back")
	require.NotContains(t, j.updates, "failed")
	c.begin(third)
	c.succeed(third)
	require.Equal(t, 1, l.get(11).given)
	require.Zero(t, l.get(11).ends)
}

// An infrastructure failure of a job that its runner has ends it.
func TestGitLabInfrastructure(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) { o.TellGrace = 2 * time.Second })
	h := b.newLabHost(l, "host-b", 1)
	l.add(11, "build", "one")
	c := h.takes()
	h.begin(c)
	f := api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailAttach, Reason: "no room"}
	for range 2 {
		_, err := h.c.Finish(t.Context(), ref(c), f)
		require.NoError(t, err)
	}
	time.Sleep(150 * time.Millisecond)
	require.Zero(t, l.get(11).ends, "its host may tell it itself")
	eventually(t, "told", func() bool { return l.get(11).ends == 1 })
	require.Empty(t, l.get(11).trace, "the end of its log is its host's")
	require.Equal(t, api.StatusFailed, b.job(onlyPipeline(t, b), "build").Status)
}

// Jobs that are submitted here and jobs of a pool never meet on a host.
func TestGitLabHostsAreApart(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	p := b.submit("native: {script: [x]}")
	require.Empty(t, h.offer(100*time.Millisecond))
	require.Equal(t, "takes only jobs of pool linux of "+strings.TrimPrefix(l.http.URL, "http://"), b.job(p, "native").Placed.Candidates[0].Excluded)
	n := b.newHost("host-n", 1)
	l.add(11, "build", "one")
	c := h.takes()
	require.Equal(t, "build", c.Job.Name)
	n.run("native")
}

// The log names the host that is waited for, and the wait is bounded by the job's own
// time.
func TestGitLabWaitsForHolder(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-b", 2)
	h.reg.Slots = 1
	h.free = 1
	h.register()
	_, build := h.one(l, 11, "build", "one", deps())
	h.upload(build, "", 300<<30)
	l.add(12, "long", "one", deps())
	c := h.takes()
	h.begin(c)
	a := b.newLabHost(l, "host-a", 1)
	l.add(13, "test", "two", deps(11))
	require.Empty(t, a.offer(1500*time.Millisecond))
	require.Regexp(t, `^roost: waiting for host-b, which holds 2\.9 TiB of this workspace, about [0-9]+ s\n$`, string(l.get(13).trace))
	p := onlyPipeline(t, b)
	require.Equal(t, api.WaitHolder, b.job(p, "test").Code)
	h.succeed(c)
	c = h.takes()
	require.Equal(t, "test", c.Job.Name)
	require.Equal(t, string(l.get(13).trace), string(c.External.Log))
}

// A runner that has ended a job asks again after a moment, whatever its host says
// meanwhile: the next job of the line does not move for that moment, however little
// would have to.
func TestGitLabWaitsForRunner(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-b", 1)
	_, build := h.one(l, 11, "build", "one", deps())
	h.upload(build, "", 1000)
	h.beat(func(hb *api.Heartbeat) { hb.FreeSlots = 0 })
	a := b.newLabHost(l, "host-a", 1)
	l.add(12, "test", "two", deps(11))
	require.Empty(t, a.offer(pollGap+time.Second))
	h.beat(func(hb *api.Heartbeat) { hb.FreeSlots = 0 })
	c := h.takes()
	require.Equal(t, "test", c.Job.Name)
	h.begin(c)
	h.succeed(c)

	// One that does not come back is not waited for longer than that.
	l.add(13, "deploy", "three", deps(12))
	h.beat(func(hb *api.Heartbeat) { hb.FreeSlots = 0 })
	h.upload(newestOutput(t, b, "test"), build, 1000)
	b.s.mu.Lock()
	p := b.s.world.fleet["host-b"]
	for i := range p.back {
		p.back[i] = p.back[i].Add(-runnerBack)
	}
	p.expect = time.Time{}
	b.s.mu.Unlock()
	require.Equal(t, "deploy", a.takes().Job.Name)
}

func newestOutput(t *testing.T, b *bench, name string) snapshot.ID {
	t.Helper()
	return b.job(onlyPipeline(t, b), name).Workspace.Output
}

// A job can't wait for longer than its own time: its token ends with that.
func TestGitLabWaitsNoLongerThanItsTime(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-x", 1)
	l.add(11, "build", "one", func(p map[string]any) { p["runner_info"] = map[string]any{"timeout": 1} })
	h.takes()
	h.gone()
	p := onlyPipeline(t, b)
	eventually(t, "given up", func() bool { return b.job(p, "build").Code == api.FailTimeout })
	eventually(t, "told", func() bool { return l.get(11).ends == 1 })
	require.Contains(t, string(l.get(11).trace), "no host could run it for 1s")
}
