package agent

import (
	"context"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
)

// turns has no layer fetched by two jobs at a time. Chains that part have layers in
// common, and who comes second copies what the first one has brought.
type turns struct {
	mu sync.Mutex
	of map[snapshot.ID]*turn // the layers that are on their way
}

type turn struct {
	f    *fetching
	done chan struct{}
}

// turn waits until nobody else fetches a layer of chain. Nobody does before done is
// called. What comes for somebody else meanwhile counts as progress.
func (f *fetching) turn(ctx context.Context, chain []transfer.LayerRef) (done func(), err error) {
	t := &f.at.a.turns
	for {
		mine, ahead := t.take(f, chain)
		if ahead == nil {
			return func() { t.end(mine, chain) }, nil
		}
		f.ahead.Store(ahead.f)
		select {
		case <-ahead.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		f.ahead.Store(nil)
	}
}

// take takes all of chain, or returns who has some of it.
func (t *turns) take(f *fetching, chain []transfer.LayerRef) (mine, ahead *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range chain {
		if o := t.of[l.ID]; o != nil {
			return nil, o
		}
	}
	if t.of == nil {
		t.of = map[snapshot.ID]*turn{}
	}
	mine = &turn{f: f, done: make(chan struct{})}
	for _, l := range chain {
		t.of[l.ID] = mine
	}
	return mine, nil
}

func (t *turns) end(mine *turn, chain []transfer.LayerRef) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range chain {
		delete(t.of, l.ID)
	}
	close(mine.done)
}

// came is how much has come, for it or for who is ahead of it.
func (f *fetching) came() int64 {
	n := f.counter.Bytes() + f.meter.Written()
	if a := f.ahead.Load(); a != nil {
		n += a.came()
	}
	return n
}
