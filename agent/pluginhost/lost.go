package pluginhost

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

const (
	tellTimeout = 30 * time.Second // one call of Lost
	tellAgain   = time.Second      // after one that failed
)

// losses are the attempts that the plugin has to be told of.
type losses struct {
	log  hclog.Logger
	more chan struct{} // something was added

	mu  sync.Mutex
	all map[snapshot.ID]*loss
}

type loss struct {
	why string
	// told: some process knows. A later one may not.
	told bool
	// busy: this process knows, or is being told.
	busy bool
}

func newLosses(log hclog.Logger) losses {
	return losses{log: log, more: make(chan struct{}, 1), all: make(map[snapshot.ID]*loss)}
}

func (l *losses) add(id snapshot.ID, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all[id] == nil {
		l.all[id] = &loss{why: why}
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *losses) forget(id snapshot.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, id)
}

// tell tells one process everything, until ctx ends.
func (l *losses) tell(ctx context.Context, a plugin.Agent, p plugin.Plugin) {
	l.begin(ctx, a)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		for id, why := range l.take() {
			wg.Go(func() { l.tellOne(ctx, p, id, why) })
		}
		select {
		case <-ctx.Done():
			return
		case <-l.more:
		}
	}
}

// begin prepares for a new process, and drops what nobody holds any more.
func (l *losses) begin(ctx context.Context, a plugin.Agent) {
	held, err := a.Held(ctx)
	still := make(map[snapshot.ID]bool)
	for _, h := range held {
		still[h.Attempt] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, e := range l.all {
		e.busy = false
		if err == nil && e.told && !still[id] {
			delete(l.all, id)
		}
	}
}

// take gives what this process was not told yet.
func (l *losses) take() map[snapshot.ID]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[snapshot.ID]string)
	for id, e := range l.all {
		if !e.busy {
			e.busy = true
			out[id] = e.why
		}
	}
	return out
}

func (l *losses) tellOne(ctx context.Context, p plugin.Plugin, id snapshot.ID, why string) {
	for {
		call, cancel := context.WithTimeout(ctx, tellTimeout)
		err := p.Lost(call, id, why)
		cancel()
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			if e := l.all[id]; e != nil {
				e.told = true
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, plugin.ErrUnavailable) { // it is dying
			<-ctx.Done()
			return
		}
		l.log.Warn("plugin does not take the loss of an attempt, it is told again", "attempt", id, "error", err)
		if pause.For(ctx, tellAgain) != nil {
			return
		}
	}
}
