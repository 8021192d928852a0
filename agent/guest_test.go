package agent

import (
	"context"
	"os"
	"path/filepath"
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
	case <-time.After(30 * time.Second):
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
	at := h.f.give("a", c)
	g, err := h.ag().Claim(h.t.Context(), plugin.Offer{Slot: slot, Runner: []byte(`{"features":{}}`)})
	require.NoError(h.t, err)
	require.NotNil(h.t, g)
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
