package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer"
)

// Budgets of a fetch for a job that would run without us: how long nothing may come.
const (
	fetchBudget = 60 * time.Second
	// fetchBudgetDown is the most of it while the coordinator or the blob store does
	// not answer.
	fetchBudgetDown = 10 * time.Second
	// fetchSays is how often a job's log hears of a fetch.
	fetchSays = 5 * time.Second
)

// errBudget ends a fetch that stands still.
var errBudget = errors.New("the fetch stands still")

// fetchBudget is how long the fetch for an external job may stand still.
func (a *Agent) fetchBudget(x *api.External) time.Duration {
	n := x.FetchBudgetMS
	if p := a.pool(); n <= 0 && p != nil {
		n = p.FetchBudgetMS
	}
	if n <= 0 {
		return fetchBudget
	}
	return time.Duration(n) * time.Millisecond
}

// fetching brings layers from the blob store.
type fetching struct {
	at      *attaching
	sum     int64 // stored bytes of them
	counter transfer.Counter
	meter   view.Meter
	ahead   atomic.Pointer[fetching] // who brings what it waits for; nil: nobody
}

// run imports need, for want of it, within the budget, if there is one.
func (f *fetching) run(ctx context.Context, need []transfer.LayerRef, want []snapshot.ID) error {
	ctx = transfer.WithCounter(ctx, &f.counter)
	if f.at.budget == 0 {
		return f.importAll(ctx, need, want)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		f.watch(ctx, cancel, done)
	}()
	err := f.importAll(ctx, need, want)
	close(done)
	<-watched
	if why := context.Cause(ctx); err != nil && errors.Is(why, errBudget) {
		return &fault{api.FailFetch, why}
	}
	return err
}

// watch ends the fetch when nothing has come for as long as the budget says, and
// tells people how far it is.
func (f *fetching) watch(ctx context.Context, cancel context.CancelCauseFunc, done <-chan struct{}) {
	var last int64
	since, said := elapsed(), elapsed()
	tick := time.NewTicker(min(f.at.budget/10, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-done:
			return
		case <-ctx.Done():
			return
		}
		now := elapsed()
		if n := f.came(); n != last {
			last, since = n, now
		}
		if still := now - since; still >= f.at.budget || still >= f.at.a.budgetDown && f.at.a.down(ctx) {
			cancel(fmt.Errorf("%w: nothing came for %s", errBudget, short(still)))
			return
		}
		if f.at.progress != nil && now-said >= fetchSays {
			said = now
			f.at.progress(fmt.Sprintf("roost: fetched %s of %s", size(f.counter.Bytes()), size(f.sum)))
		}
	}
}

// down reports whether the coordinator or the blob store does not answer.
func (a *Agent) down(ctx context.Context) bool {
	if !a.heard() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := a.o.Blobs.Stat(ctx, snapshot.Digest{})
	return err != nil && !errors.Is(err, snapshot.ErrNotFound)
}

// importAll imports what the inputs lack. Of a chain only the last snapshot is had
// afterwards, as one layer, and it may be used before it is on the disk: until then a
// restart of the machine makes it one that has to be fetched again, as a layer of the
// blob store can be. The store syncs it behind, before anything that stands on it.
func (f *fetching) importAll(ctx context.Context, need []transfer.LayerRef, want []snapshot.ID) error {
	c := f.at.c
	parents := map[snapshot.ID][]snapshot.ID{}
	for _, n := range c.Lineage {
		parents[n.ID] = n.Parents
	}
	for _, chain := range transfer.Chains(need, want) {
		specs := make([]store.ImportSpec, len(chain))
		for i, l := range chain {
			specs[i] = store.ImportSpec{
				ID: l.ID, Base: l.Base, Parents: parents[l.ID], Index: l.Index, IndexBytes: l.IndexBytes,
				Manifest: l.Manifest, DomainKey: c.DomainKey, Later: true,
			}
		}
		if err := f.importChain(ctx, chain, specs); err != nil {
			return err
		}
	}
	return nil
}

// importChain imports the last of a chain, and tells that it is held.
func (f *fetching) importChain(ctx context.Context, chain []transfer.LayerRef, specs []store.ImportSpec) error {
	a, tip := f.at.a, specs[len(specs)-1].ID
	done, err := f.turn(ctx, chain)
	if err != nil {
		return err
	}
	defer done()
	if err := a.unpack(ctx, specs[0].Base, &f.meter); err != nil {
		return err
	}
	if err := a.importChain(ctx, specs, &f.meter); err != nil {
		return fmt.Errorf("fetch snapshot %s: %w", tip, err)
	}
	fail.Point("agent.imported")
	in, err := a.o.Store.Lookup(tip)
	if err != nil {
		return err
	}
	a.hold(holding(&in))
	a.beatNow() // the next job may be placed by it
	return nil
}
