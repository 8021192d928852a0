//go:build bench && linux

package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

var domainKey = []byte("the key of the domain of a bench")

// host is a store as the agent opens it.
type host struct {
	t    *testing.T
	s    *store.Store
	d    view.Driver
	stop func() // ends the background work, nil while there is none
}

func newHost(t *testing.T, driver, dir string) *host {
	t.Helper()
	h := &host{t: t}
	s, err := store.Open(context.WithoutCancel(t.Context()), dir, store.Options{
		Owners: true,
		Driver: func(root string) (view.Driver, error) {
			d, err := view.Open(driver, root, view.Options{Owners: true})
			h.d = d
			return d, err
		},
	})
	require.NoError(t, err)
	h.s = s
	return h
}

// driverName is the driver that views have here.
func (b *bench) driverName() string {
	dir := filepath.Join(b.set.dir, "probe")
	h := newHost(b.t, b.set.driver, dir)
	h.close()
	require.NoError(b.t, os.RemoveAll(dir))
	return h.d.Name()
}

func (h *host) close() {
	h.pause()
	for _, v := range h.s.Views() {
		if !v.Sealed {
			require.NoError(h.t, h.s.Discard(context.Background(), v.ID))
		}
	}
	require.NoError(h.t, h.s.Close())
}

// work starts what an agent does behind its jobs: syncing, packing, making images.
func (h *host) work() {
	if h.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.s.Run(ctx); err != nil {
			h.t.Error(err)
		}
	})
	h.stop = func() { cancel(); wg.Wait() }
}

func (h *host) pause() {
	if h.stop != nil {
		h.stop()
		h.stop = nil
	}
}

// packed waits until all that follows from a seal is done.
func (h *host) packed(id snapshot.ID) {
	h.t.Helper()
	running := h.stop != nil
	h.work()
	_, err := h.s.Packed(context.Background(), id)
	require.NoError(h.t, err)
	if !running {
		h.pause()
	}
}

// prepare makes a view on base ("": an empty one) and returns its id and where it is.
func (h *host) prepare(base snapshot.ID) (id snapshot.ID, target string) {
	h.t.Helper()
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(h.t, err)
	spec := store.PrepareSpec{ID: id, Target: filepath.Join(h.s.Dir(), "slots", string(id)), DomainKey: domainKey}
	if base != "" {
		spec.Inputs = []store.Input{{Snapshot: base, Job: "before"}}
	}
	a, err := h.s.Prepare(h.t.Context(), spec)
	require.NoError(h.t, err)
	return id, a.Target
}

func (h *host) seal(id snapshot.ID) {
	h.t.Helper()
	in, err := h.s.Seal(h.t.Context(), id, nil)
	require.NoError(h.t, err)
	require.Equal(h.t, store.Sealed, in.State, in.Err)
}

func (h *host) discard(id snapshot.ID) {
	h.t.Helper()
	require.NoError(h.t, h.s.Discard(h.t.Context(), id))
}

func (h *host) drop(id snapshot.ID) {
	h.t.Helper()
	require.NoError(h.t, h.s.Drop(h.t.Context(), id))
}

// fill makes a snapshot of what script puts into the view at $DST, and has it
// packed.
func (h *host) fill(script string, env ...string) snapshot.ID {
	h.t.Helper()
	id, target := h.prepare("")
	must(h.t, script, append(env, "DST="+target)...)
	h.seal(id)
	h.packed(id)
	return id
}

// said fails the test with what was being done.
func said(t *testing.T, err error, what string, args ...any) {
	t.Helper()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", fmt.Sprintf(what, args...), err))
	}
}
