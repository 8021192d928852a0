package gitlab

import (
	"context"
	"sync"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// fakeAgent is an agent with a queue of jobs and a plan for each.
type fakeAgent struct {
	mu       sync.Mutex
	queue    chan *plugin.Grant
	attach   func(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error)
	seal     func(ctx context.Context, r plugin.SealRequest) (*plugin.Sealed, error)
	held     []plugin.Held
	offers   []plugin.Offer
	seals    []plugin.SealRequest
	discards []plugin.DiscardRequest
	refuse   error // of every claim
}

func newFakeAgent() *fakeAgent { return &fakeAgent{queue: make(chan *plugin.Grant, 100)} }

func (a *fakeAgent) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	a.mu.Lock()
	a.offers = append(a.offers, o)
	refuse := a.refuse
	a.mu.Unlock()
	if refuse != nil {
		return nil, refuse
	}
	select {
	case g := <-a.queue:
		g.Slot = o.Slot
		if o.Job != nil {
			g.Payload = o.Job
		}
		return g, nil
	case <-ctx.Done():
		return nil, nil
	}
}

func (a *fakeAgent) Attach(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
	if a.attach != nil {
		return a.attach(ctx, id, progress)
	}
	return workspace(), nil
}

func (a *fakeAgent) Seal(ctx context.Context, r plugin.SealRequest) (*plugin.Sealed, error) {
	a.mu.Lock()
	a.seals = append(a.seals, r)
	a.mu.Unlock()
	if a.seal != nil {
		return a.seal(ctx, r)
	}
	return &plugin.Sealed{Lines: []string{"roost: kept"}}, nil
}

func (a *fakeAgent) Discard(_ context.Context, d plugin.DiscardRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.discards = append(a.discards, d)
	return nil
}

func (a *fakeAgent) Held(context.Context) ([]plugin.Held, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held, nil
}

func (a *fakeAgent) outcomes() []plugin.Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []plugin.Outcome
	for _, d := range a.discards {
		out = append(out, d.Outcome)
	}
	return out
}

func (a *fakeAgent) sealed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seals)
}

func workspace() *plugin.Workspace {
	return &plugin.Workspace{
		State: plugin.StateFull, View: "/srv/ws/slot1/" + viewName, Name: viewName,
		Contained: []string{"11"}, Lines: []string{"roost: FULL"},
		Env: map[string]string{"ROOST_WORKSPACE_STATE": "FULL"},
	}
}
