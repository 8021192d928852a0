package coordinator

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

const (
	agentToken = "agent-token-0123456789"
	userToken  = "user-token-0123456789"
)

// clock is a time that stands still until it is told to go on.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// bench is a coordinator under test, served over real HTTP.
type bench struct {
	t     *testing.T
	o     Options
	clock *clock
	s     *Server
	http  *httptest.Server
	user  *api.Client
	end   func()
}

// newBench opens a coordinator on a new directory and runs it.
func newBench(t *testing.T, edit ...func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, clock: &clock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}}
	b.o = Options{Dir: t.TempDir(), AgentToken: agentToken, UserToken: userToken, Now: b.clock.Now, AllowLocalSource: true}
	for _, f := range edit {
		f(&b.o)
	}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) start() {
	b.t.Helper()
	s, err := Open(b.t.Context(), b.o)
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.s = s
	b.http = httptest.NewServer(s.Handler())
	b.user = b.client(userToken)
	b.end = func() {
		// Run first: it answers the long-polls that the server waits for.
		cancel()
		require.NoError(b.t, <-done)
		b.http.Close()
	}
}

func (b *bench) stop() {
	if b.end != nil {
		b.end()
		b.end = nil
	}
}

// restart stops the coordinator and opens its directory again.
func (b *bench) restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

func (b *bench) client(token string) *api.Client {
	b.t.Helper()
	c, err := api.NewClient(b.http.URL, token, nil)
	require.NoError(b.t, err)
	return c
}

// advance moves the clock in steps small enough not to look like a sleep of the
// coordinator, each followed by what the ticker does.
func (b *bench) advance(d time.Duration) {
	b.t.Helper()
	for d > 0 {
		step := min(d, 2*time.Second)
		d -= step
		b.clock.mu.Lock()
		b.clock.now = b.clock.now.Add(step)
		b.clock.mu.Unlock()
		require.NoError(b.t, b.s.do(b.t.Context(), func(t *txn) error { t.tick(); return nil }))
	}
}

var submissions int

// submit starts a pipeline of the project "p".
func (b *bench) submit(text string) *api.Pipeline {
	b.t.Helper()
	submissions++
	p, err := b.user.Submit(b.t.Context(), fmt.Sprintf("key-%d", submissions), api.Submit{Project: "p", File: "pipeline.yml", Text: text})
	require.NoError(b.t, err)
	return &p.Pipeline
}

// job gets a job of a pipeline by name.
func (b *bench) job(p *api.Pipeline, name string) api.Job {
	b.t.Helper()
	got, err := b.user.Pipeline(b.t.Context(), p.ID)
	require.NoError(b.t, err)
	for _, j := range got.Jobs {
		if j.Name == name {
			return j
		}
	}
	b.t.Fatalf("pipeline has no job %q", name)
	return api.Job{}
}

func (b *bench) status(p *api.Pipeline) api.Status {
	b.t.Helper()
	got, err := b.user.Pipeline(b.t.Context(), p.ID)
	require.NoError(b.t, err)
	return got.Status
}

func newID(t testing.TB) snapshot.ID {
	t.Helper()
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	return id
}

// host is an agent in the test's hands: it does what it is told, when it is told.
type host struct {
	b    *bench
	c    *api.Client
	reg  api.Register
	id   snapshot.ID
	free int
}

// newHost registers a host.
func (b *bench) newHost(name string, slots int, tags ...string) *host {
	b.t.Helper()
	h := &host{b: b, free: slots, reg: api.Register{
		Name: name, StoreID: newID(b.t), Session: newID(b.t), BootID: "boot", Slots: slots, Tags: tags,
		Driver: "copy", OS: "linux", Arch: "amd64", Fingerprint: "linux/amd64",
	}}
	h.register()
	return h
}

func (h *host) register() *api.Registered {
	h.b.t.Helper()
	h.c = h.b.client(agentToken)
	r, err := h.c.Register(h.b.t.Context(), h.reg)
	require.NoError(h.b.t, err)
	h.id = r.Agent
	return r
}

// poll asks for work without waiting.
func (h *host) poll() []api.Claim {
	h.b.t.Helper()
	cs, err := h.c.Claims(h.b.t.Context(), h.id, api.ClaimRequest{Session: h.reg.Session, FreeSlots: h.free})
	require.NoError(h.b.t, err)
	return cs.Claims
}

// claim asks for work until there is one claim.
func (h *host) claim() api.Claim {
	h.b.t.Helper()
	return h.claims(1)[0]
}

// claims asks for work until there is some, which must be n claims. They come in
// the order of their jobs' names.
func (h *host) claims(n int) []api.Claim {
	h.b.t.Helper()
	cs, err := h.c.Claims(h.b.t.Context(), h.id, api.ClaimRequest{Session: h.reg.Session, FreeSlots: h.free, WaitMS: 10_000})
	require.NoError(h.b.t, err)
	require.Len(h.b.t, cs.Claims, n, "claims for %s", h.reg.Name)
	slices.SortFunc(cs.Claims, func(a, b api.Claim) int { return strings.Compare(a.Job.Name, b.Job.Name) })
	return cs.Claims
}

func (h *host) beat(edit ...func(*api.Heartbeat)) *api.HeartbeatReply {
	h.b.t.Helper()
	hb := api.Heartbeat{Session: h.reg.Session, FreeSlots: h.free}
	for _, f := range edit {
		f(&hb)
	}
	r, err := h.c.Heartbeat(h.b.t.Context(), h.id, hb)
	require.NoError(h.b.t, err)
	return r
}

func ref(c api.Claim) api.AttemptRef { return api.AttemptRef{Attempt: c.Attempt, Epoch: c.Epoch} }

// begin accepts and starts a claim.
func (h *host) begin(c api.Claim) {
	h.b.t.Helper()
	require.NoError(h.b.t, h.c.Accept(h.b.t.Context(), ref(c)))
	h.free--
	state := api.StateFresh
	if len(c.Inputs) > 0 {
		state = api.StateFull
	}
	require.NoError(h.b.t, h.c.Start(h.b.t.Context(), ref(c), api.Start{Workspace: api.Workspace{
		State: state, Origin: c.Origin, Source: api.SourceLocal, Code: c.Code, Reason: c.Reason,
	}}))
}

// end finishes a claim that was begun.
func (h *host) end(c api.Claim, f api.Finish) (*api.Finished, error) {
	h.free++
	return h.c.Finish(h.b.t.Context(), ref(c), f)
}

// succeed finishes a claim with an output and gives that.
func (h *host) succeed(c api.Claim) snapshot.ID {
	h.b.t.Helper()
	out := newID(h.b.t)
	f := api.Finish{Status: api.StatusSuccess, RunMS: 1000, Output: out, Bytes: 1 << 20}
	for _, in := range c.Inputs {
		f.Parents = append(f.Parents, in.Snapshot)
	}
	got, err := h.end(c, f)
	require.NoError(h.b.t, err)
	require.True(h.b.t, got.Output)
	return out
}

// run claims the next job, checks its name, and lets it succeed.
func (h *host) run(name string) snapshot.ID {
	h.b.t.Helper()
	c := h.claim()
	require.Equal(h.b.t, name, c.Job.Name)
	h.begin(c)
	return h.succeed(c)
}

// upload reports a snapshot as packed and durable.
func (h *host) upload(id, base snapshot.ID, stored int64) {
	h.b.t.Helper()
	l := api.LayerRef{ID: id, Base: base, StoredBytes: stored, TreeBytes: 10 * stored, Durable: true}
	copy(l.Index[:], id)
	copy(l.Manifest[:], "m"+string(id))
	require.NoError(h.b.t, h.c.PutSnapshot(h.b.t.Context(), l))
}
