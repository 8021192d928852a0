package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// fakePlugin is a plugin in this process whose runners are the test's own hands.
type fakePlugin struct {
	mu    sync.Mutex
	calls plugin.Agent
	up    chan struct{} // closed while it runs
	lost  map[snapshot.ID]string
	fails int // so many calls of Lost
}

func newFakePlugin() *fakePlugin {
	return &fakePlugin{up: make(chan struct{}), lost: map[snapshot.ID]string{}}
}

// on is Options.Plugin.
func (p *fakePlugin) on(a plugin.Agent) (Plugin, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls, p.up = a, make(chan struct{})
	return p, nil
}

func (p *fakePlugin) Run(ctx context.Context) error {
	p.mu.Lock()
	close(p.up)
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (p *fakePlugin) Lost(_ context.Context, id snapshot.ID, why string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails > 0 {
		p.fails--
		return os.ErrDeadlineExceeded
	}
	p.lost[id] = why
	return nil
}

func (p *fakePlugin) lostWhy(id snapshot.ID) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost[id]
}

// ag waits for the agent.
func (p *fakePlugin) ag(t *testing.T) plugin.Agent {
	t.Helper()
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	select {
	case <-up:
	case <-time.After(2 * time.Minute):
		t.Fatal("the plugin was not started")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

const wsName = "abcdefghijklmnopqrstuvwxyz"

// ext makes a claim of a job in a runner of its own.
func ext(name string) api.Claim {
	c := job(name)
	c.Job.Script = nil
	c.Job.Workspace.Mode = modeOptional
	c.External = &api.External{
		System: api.SystemGitLab, ID: "1" + name, Payload: []byte("payload of " + name + ", a SECRET"), AgeMS: 1500,
		Log: []byte("waited\n"), Name: wsName, Parents: "dependencies", Durability: "local",
	}
	return c
}

// guestHost is a host with an in-process plugin.
func guestHost(t *testing.T, f *fake) *host {
	h := newHost(t, f, "a")
	h.plugin = newFakePlugin()
	return h
}

func (h *host) ag() plugin.Agent {
	h.t.Helper()
	return h.plugin.ag(h.t)
}

// claim gives a job and has slot ask for it.
func (h *host) claim(slot int, c api.Claim) (*fakeAttempt, *plugin.Grant) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	type result struct {
		g   *plugin.Grant
		err error
	}
	got := make(chan result, 1)
	h.f.edit(func() { h.f.offers = nil })
	ag := h.ag()
	go func() {
		g, err := ag.Claim(ctx, plugin.Offer{Slot: slot, Runner: []byte(`{"features":{}}`)})
		got <- result{g, err}
	}()
	h.f.wait("an offer", func() bool {
		if len(got) > 0 {
			return true
		}
		return slices.ContainsFunc(h.f.offers, func(o api.SlotOffer) bool { return o.Slot == slot })
	})
	at := h.f.give("a", c)
	r := <-got
	require.NoError(h.t, r.err)
	require.NotNil(h.t, r.g)
	g := r.g
	require.Equal(h.t, at.claim.Attempt, g.Attempt)
	require.Equal(h.t, slot, g.Slot)
	return at, g
}

// open claims a job and attaches its workspace.
func (h *host) open(slot int, c api.Claim) (*fakeAttempt, *plugin.Workspace) {
	h.t.Helper()
	at, g := h.claim(slot, c)
	w, err := h.ag().Attach(h.t.Context(), g.Attempt, nil)
	require.NoError(h.t, err)
	return at, w
}

func (h *host) seal(at *fakeAttempt) *plugin.Sealed {
	h.t.Helper()
	s, err := h.ag().Seal(h.t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Run: 1200 * time.Millisecond, Within: time.Minute})
	require.NoError(h.t, err)
	return s
}

// pass is a whole job that writes files.
func (h *host) pass(slot int, c api.Claim, files ...string) *fakeAttempt {
	h.t.Helper()
	at, w := h.open(slot, c)
	for _, n := range files {
		require.NoError(h.t, os.WriteFile(filepath.Join(w.View, n), []byte(n), 0o644))
	}
	s := h.seal(at)
	require.Equal(h.t, at.claim.Attempt, s.Output, "%+v\n%s", s, h.f.logOf(at))
	return at
}

// TestGuestChain: a job in a runner of its own, and one after it on the same host.
func TestGuestChain(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		h := guestHost(t, f)
		h.driver = driver
		h.start()

		build, g := h.claim(2, ext("build"))
		require.Equal(t, "payload of build, a SECRET", string(g.Payload))
		require.Equal(t, "waited\n", string(g.Log))
		require.GreaterOrEqual(t, g.Age, 1500*time.Millisecond)
		require.True(t, build.accepted)
		held, err := h.ag().Held(t.Context())
		require.NoError(t, err)
		require.Equal(t, []plugin.Held{{Attempt: g.Attempt, Slot: 2}}, held)
		slot := filepath.Join(h.store.Dir(), "slots", "2")
		require.NoError(t, os.WriteFile(filepath.Join(slot, "left.tmp"), nil, 0o600))

		w, err := h.ag().Attach(t.Context(), g.Attempt, nil)
		require.NoError(t, err)
		require.NoFileExists(t, filepath.Join(slot, "left.tmp"))
		require.Equal(t, filepath.Join(slot, wsName), w.View)
		require.Equal(t, wsName, w.Name)
		require.Equal(t, plugin.StateFresh, w.State)
		require.Empty(t, w.Contained)
		again, err := h.ag().Attach(t.Context(), g.Attempt, nil)
		require.NoError(t, err)
		require.Equal(t, w, again)
		f.wait("start", func() bool { return build.start != nil })
		require.NoError(t, os.WriteFile(filepath.Join(w.View, "out"), []byte("built"), 0o644))
		s := h.seal(build)
		require.Equal(t, build.claim.Attempt, s.Output)
		require.False(t, s.Failed)
		require.Equal(t, s, h.seal(build), "a second call is answered as the first")
		fin := f.green(build)
		require.Equal(t, int64(1200), fin.RunMS)
		require.NoDirExists(t, w.View)

		c := from(ext("test"), build)
		c.External.Contained = []string{"1build"}
		at, w := h.open(1, c)
		require.Equal(t, plugin.StateFull, w.State)
		require.Equal(t, []string{"1build"}, w.Contained)
		b, err := os.ReadFile(filepath.Join(w.View, "out"))
		require.NoError(t, err)
		require.Equal(t, "built", string(b))
		require.Len(t, w.Lines, 1)
		moved := "0 B moved"
		if driver == view.NameCopy {
			moved = "5 B moved"
		}
		require.Regexp(t, `^roost: workspace FULL from build \(dependencies\): 5 B, `+moved+`, ready in [0-9.]+[mµ]?s$`, w.Lines[0])
		require.Equal(t, "FULL", w.Env["ROOST_WORKSPACE_STATE"])
		require.Equal(t, "parent", w.Env["ROOST_WORKSPACE_ORIGIN"])
		require.Equal(t, "local", w.Env["ROOST_DURABILITY"])
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{
			Attempt: at.claim.Attempt, Outcome: plugin.OutcomeFailed, ExitCode: 3, Reason: "exit code 3",
		}))
		fin = f.finished(at)
		require.Equal(t, api.StatusFailed, fin.Status)
		require.Equal(t, 3, fin.ExitCode)
		require.False(t, fin.Infrastructure)
		held, err = h.ag().Held(t.Context())
		require.NoError(t, err)
		require.Empty(t, held)
		require.Contains(t, f.logOf(at), strings.TrimPrefix(w.Lines[0], "roost: "))
		f.durable(build.finish.Output)
		h.end()
		requireNoViews(t, h)
		require.True(t, f.agents["a"].left)
	})
}

// held lists the attempts that the agent holds for the plugin.
func (h *host) held() []plugin.Held {
	h.t.Helper()
	held, err := h.ag().Held(h.t.Context())
	require.NoError(h.t, err)
	return held
}

// TestGuestOutlivesAgent: the agent is stopped and started during a job, as often as
// it likes; the job goes on in its view and is sealed by another process's agent.
func TestGuestOutlivesAgent(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		h := guestHost(t, f)
		h.driver = driver
		h.start()
		base := h.pass(1, ext("base"), "b")
		at, w := h.open(2, from(ext("long"), base))
		require.NoError(t, os.WriteFile(filepath.Join(w.View, "one"), nil, 0o644))
		job, err := os.OpenFile(filepath.Join(w.View, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) // the job's own
		require.NoError(t, err)
		for range 2 {
			h.end()
			require.False(t, f.agents["a"].left, "a host with jobs does not say good-bye")
			require.Nil(t, at.finish)
			_, err := job.WriteString("x") // it runs on without us
			require.NoError(t, err)
			h.start()
			require.Equal(t, []plugin.Held{{Attempt: at.claim.Attempt, Slot: 2, Attached: true}}, h.held())
		}
		require.NoError(t, job.Close())
		again, err := h.ag().Attach(t.Context(), at.claim.Attempt, nil)
		require.NoError(t, err)
		require.Equal(t, w, again)
		_, err = h.ag().Claim(t.Context(), plugin.Offer{Slot: 2})
		require.ErrorIs(t, err, snapshot.ErrBusy)
		s := h.seal(at)
		require.Equal(t, at.claim.Attempt, s.Output, "%+v", s)
		h.end()
		h.start()
		require.Equal(t, s, h.seal(at), "answered as before, also by the next process")
		require.Empty(t, h.held())
		child, w := h.open(1, from(ext("child"), at))
		for _, n := range []string{"b", "one"} {
			require.FileExists(t, filepath.Join(w.View, n))
		}
		b, err := os.ReadFile(filepath.Join(w.View, "log"))
		require.NoError(t, err)
		require.Equal(t, "xx", string(b))
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: child.claim.Attempt, Outcome: plugin.OutcomeCanceled}))
		require.Equal(t, api.StatusCanceled, f.finished(child).Status)
		h.end()
		requireNoViews(t, h)
		require.True(t, f.agents["a"].left)
	})
}

// TestGuestAfterReboot: what was running is lost with the machine, and said to be.
func TestGuestAfterReboot(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	h.edit = func(o *Options) { o.BootID = "one" }
	h.start()
	at, w := h.open(1, ext("long"))
	require.NoError(t, os.WriteFile(filepath.Join(w.View, "x"), nil, 0o644))
	h.end()
	h.edit = func(o *Options) { o.BootID = "two" }
	h.start()
	fin := f.finished(at)
	require.True(t, fin.Infrastructure)
	require.False(t, fin.Undelivered)
	require.Equal(t, api.FailAgentDied, fin.Code)
	require.Empty(t, h.held())
	require.NoDirExists(t, w.View)
	h.pass(1, ext("next"), "y")
	h.end()
	requireNoViews(t, h)
}

// TestGuestUndelivered: jobs that no runner saw are given back.
func TestGuestUndelivered(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	h.start()
	back := func(at *fakeAttempt) {
		t.Helper()
		fin := f.finished(at)
		require.True(t, fin.Infrastructure)
		require.True(t, fin.Undelivered)
		require.Equal(t, api.FailUndelivered, fin.Code)
		require.Empty(t, h.held())
	}
	t.Run("the runner says so", func(t *testing.T) {
		at, _ := h.open(1, ext("a"))
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: at.claim.Attempt, Outcome: plugin.OutcomeUndelivered}))
		back(at)
	})
	t.Run("its request had gone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		f.edit(func() { f.offers = nil })
		go func() {
			defer close(done)
			g, err := h.ag().Claim(ctx, plugin.Offer{Slot: 2})
			require.NoError(t, err)
			require.Nil(t, g)
		}()
		f.wait("an offer", func() bool { return len(f.offers) == 1 })
		cancel()
		<-done
		at := f.give("a", ext("b")) // the request for work still tells of slot 2
		back(at)
	})
	t.Run("the slot that it must go to", func(t *testing.T) {
		c := ext("c")
		c.External.Slot = 2
		at := f.give("a", c)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		g, err := h.ag().Claim(ctx, plugin.Offer{Slot: 1})
		require.NoError(t, err)
		require.Nil(t, g)
		require.Nil(t, at.finish)
		g, err = h.ag().Claim(t.Context(), plugin.Offer{Slot: 2})
		require.NoError(t, err)
		require.Equal(t, 2, g.Slot)
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: g.Attempt, Outcome: plugin.OutcomeUndelivered}))
		back(at)
	})
	t.Run("the agent was stopped before", func(t *testing.T) {
		at, _ := h.claim(1, ext("d"))
		h.end()
		h.start()
		back(at)
	})
	h.end()
	requireNoViews(t, h)
}

// TestGuestLost: a lease that is not renewed stops no job of a system that refuses a
// second report; a word that it is not ours does.
func TestGuestLost(t *testing.T) {
	f := newFake(t)
	f.lease = time.Second
	h := guestHost(t, f)
	h.edit = func(o *Options) { o.LostWait = 3 * time.Second } // a plugin does what it is told meanwhile
	h.start()
	kept, _ := h.open(1, ext("kept"))
	f.edit(func() { f.down = func(_, p string) bool { return !strings.HasPrefix(p, "/v1/blobs") } })
	time.Sleep(1500 * time.Millisecond)
	require.Empty(t, h.plugin.lostWhy(kept.claim.Attempt))
	require.Len(t, h.held(), 1)
	f.edit(func() { f.down = nil })
	require.Equal(t, kept.claim.Attempt, h.seal(kept).Output)

	stops, _ := h.open(1, ext("stops"))
	f.edit(func() { stops.cancel = true; h.plugin.fails = 2 })
	require.Eventually(t, func() bool { return h.plugin.lostWhy(stops.claim.Attempt) == "canceled" }, time.Minute, 5*time.Millisecond)
	require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: stops.claim.Attempt, Outcome: plugin.OutcomeCanceled}))
	require.Equal(t, api.StatusCanceled, f.finished(stops).Status)

	runs, w := h.open(2, ext("runs on"))
	f.edit(func() { runs.cancel = true })
	fin := f.finished(runs)
	require.Equal(t, api.StatusCanceled, fin.Status)
	require.NoDirExists(t, w.View)

	fenced, w := h.open(2, ext("fenced"))
	f.edit(func() { fenced.fenced = true })
	require.Eventually(t, func() bool { return h.plugin.lostWhy(fenced.claim.Attempt) != "" }, time.Minute, 5*time.Millisecond)
	require.Eventually(t, func() bool { return len(h.held()) == 0 }, time.Minute, 5*time.Millisecond)
	require.NoDirExists(t, w.View)
	require.Nil(t, fenced.finish)
	h.end()
	requireNoViews(t, h)
}

// TestGuestUnreachable: a seal answers though the coordinator does not, and it hears of
// it later, also by the next process.
func TestGuestUnreachable(t *testing.T) {
	f := newFake(t)
	f.lease = 30 * time.Second
	h := guestHost(t, f)
	h.edit = func(o *Options) { o.DrainTimeout = 500 * time.Millisecond }
	h.start()
	at, w := h.open(1, ext("a"))
	require.NoError(t, os.WriteFile(filepath.Join(w.View, "x"), nil, 0o644))
	f.edit(func() { f.down = func(_, p string) bool { return strings.Contains(p, "/v1/attempts/") } })
	begin := time.Now()
	s, err := h.ag().Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Within: 700 * time.Millisecond})
	require.NoError(t, err)
	require.Less(t, time.Since(begin), 20*time.Second) // the lease is 30
	require.Equal(t, at.claim.Attempt, s.Output)
	require.Contains(t, strings.Join(s.Lines, "\n"), "hears of this job later")
	require.Empty(t, h.held())
	// Its slot is free.
	_, err = h.ag().Claim(expired(t), plugin.Offer{Slot: 1})
	require.NoError(t, err)
	h.end()
	require.Nil(t, at.finish)
	f.edit(func() { f.down = nil })
	h.start()
	fin := f.green(at)
	require.Equal(t, at.claim.Attempt, fin.Output)
	f.durable(fin.Output)
	require.Equal(t, s.Output, h.seal(at).Output)
	h.end()
	requireNoViews(t, h)
}

// expired is a context that ends soon.
func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestGuestRefused: a job that the coordinator does not believe in is refused with its reason, and
// its slot takes the next one.
func TestGuestRefused(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	f.refuse = func(o api.SlotOffer) *api.Refusal {
		switch string(o.Job) {
		case "forged":
			return &api.Refusal{Slot: o.Slot, Reason: "GitLab does not confirm the job"}
		case "later":
			return &api.Refusal{Slot: o.Slot, Reason: "GitLab does not say", Later: true}
		}
		return nil
	}
	h.start()
	for job, want := range map[string]error{"forged": plugin.ErrInvalid, "later": plugin.ErrUnavailable} {
		g, err := h.ag().Claim(t.Context(), plugin.Offer{Slot: 1, Job: []byte(job)})
		require.Nil(t, g)
		require.ErrorIs(t, err, want)
		require.ErrorContains(t, err, "GitLab does not")
	}
	h.pass(1, ext("next"), "file")
}
