package agent

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// faultyStore is a store in which the test makes calls fail.
type faultyStore struct {
	*store.Store
	fault atomic.Pointer[storeFault]
}

type storeFault struct {
	prepare  func(p store.PrepareSpec) error
	imported error
	seal     error
}

func (s *faultyStore) at() *storeFault {
	if f := s.fault.Load(); f != nil {
		return f
	}
	return &storeFault{}
}

func (s *faultyStore) Prepare(ctx context.Context, p store.PrepareSpec) (*store.Attached, error) {
	if fn := s.at().prepare; fn != nil {
		if err := fn(p); err != nil {
			return nil, err
		}
	}
	return s.Store.Prepare(ctx, p)
}

func (s *faultyStore) ImportChain(ctx context.Context, chain []store.ImportSpec, open store.OpenBlobFunc, m *view.Meter) error {
	if err := s.at().imported; err != nil {
		return err
	}
	return s.Store.ImportChain(ctx, chain, open, m)
}

func (s *faultyStore) Seal(ctx context.Context, id snapshot.ID, outcome []byte) (store.Info, error) {
	if err := s.at().seal; err != nil {
		return store.Info{}, err
	}
	return s.Store.Seal(ctx, id, outcome)
}

// degrading is a host whose jobs have to fetch, and that faults.
type degrading struct {
	*host
	store *faultyStore
	base  *fakeAttempt // made and uploaded by another host
	left  *fakeAttempt // in conflict with it
}

func newDegrading(t *testing.T) *degrading {
	f := newFake(t)
	b := newHost(t, f, "b").start()
	d := &degrading{base: f.give("b", job("base", "echo base > file; mkdir d; echo x > d/x"))}
	f.green(d.base)
	d.left = f.give("b", job("left", "echo other > file"))
	f.green(d.left)
	f.durable(d.base.finish.Output)
	f.durable(d.left.finish.Output)
	b.end()
	d.host = guestHost(t, f)
	d.edit = func(o *Options) {
		d.store = &faultyStore{Store: o.Store.(*store.Store)}
		o.Store = d.store
	}
	d.tune = func(a *Agent) { a.budgetDown, a.tellWait = 600*time.Millisecond, 600*time.Millisecond }
	d.start()
	return d
}

// calm lifts the faults.
func (d *degrading) calm() {
	d.f.edit(func() { d.f.down = nil })
	d.store.fault.Store(nil)
}

func newIDOf() snapshot.ID { return snapshot.ID(strings.Repeat("z", 26)) }
