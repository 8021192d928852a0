package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
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

// held lists the attempts that the agent holds for the plugin.
func (h *host) held() []plugin.Held {
	h.t.Helper()
	held, err := h.ag().Held(h.t.Context())
	require.NoError(h.t, err)
	return held
}

// expired is a context that ends soon.
func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
