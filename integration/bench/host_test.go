//go:build bench && linux

package bench

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
)

var domainKey = []byte("the key of the domain of a bench")

// host is a store with the overlay driver, as the agent opens it.
type host struct {
	t *testing.T
	s *store.Store
}

func newHost(t *testing.T, dir string) *host {
	t.Helper()
	s, err := store.Open(t.Context(), dir, store.Options{
		Owners: true,
		Driver: func(root string) (view.Driver, error) {
			return view.NewOverlay(root, view.Options{Owners: true})
		},
	})
	require.NoError(t, err)
	h := &host{t: t, s: s}
	t.Cleanup(h.close)
	return h
}

func (h *host) close() {
	if h.s == nil {
		return
	}
	for _, v := range h.s.Views() {
		if !v.Sealed {
			require.NoError(h.t, h.s.Discard(context.Background(), v.ID))
		}
	}
	require.NoError(h.t, h.s.Close())
	h.s = nil
}

// prepare makes a view on base ("": an empty one) and returns its id and where it is.
func (h *host) prepare(base snapshot.ID) (id snapshot.ID, target string) {
	h.t.Helper()
	id = h.newID()
	spec := store.PrepareSpec{ID: id, Target: filepath.Join(h.s.Dir(), "slots", string(id)), DomainKey: domainKey}
	if base != "" {
		spec.Inputs = []store.Input{{Snapshot: base, Job: "before"}}
	}
	a, err := h.s.Prepare(h.t.Context(), spec)
	require.NoError(h.t, err)
	return id, a.Target
}

func (h *host) newID() snapshot.ID {
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(h.t, err)
	return id
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

// pack does what Run does behind the jobs, until id is packed.
func (h *host) pack(id snapshot.ID) store.Info {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	var wg sync.WaitGroup
	var runErr error
	wg.Go(func() { runErr = h.s.Run(ctx) })
	in, err := h.s.Packed(h.t.Context(), id)
	cancel()
	wg.Wait()
	require.NoError(h.t, err)
	require.NoError(h.t, runErr)
	return in
}

// upload sends the layer's blobs; it is not measured.
func (h *host) upload(id snapshot.ID, to blob.Store) {
	h.t.Helper()
	in, err := h.s.Lookup(id)
	require.NoError(h.t, err)
	ctx, cancel := context.WithCancel(h.t.Context())
	u := transfer.NewUploader(transfer.UploaderOptions{
		Source: h.s, Blobs: to,
		Durable: func(context.Context, snapshot.ID) error { return nil },
	})
	it := transfer.Item{ID: id}
	for _, b := range in.Blobs {
		it.Blobs = append(it.Blobs, transfer.Blob(b))
	}
	require.NoError(h.t, u.Enqueue(it))
	var wg sync.WaitGroup
	wg.Go(func() { u.Run(ctx) }) //nolint:errcheck // returns nil
	err = u.Drain(h.t.Context())
	cancel()
	wg.Wait()
	require.NoError(h.t, err)
}

// fetch imports a snapshot of another host and returns the bytes that came.
func (h *host) fetch(in store.Info, blobs blob.Store) int64 {
	h.t.Helper()
	var c transfer.Counter
	f := transfer.NewFetcher(transfer.FetcherOptions{Blobs: blobs})
	require.NoError(h.t, h.s.Import(transfer.WithCounter(h.t.Context(), &c), store.ImportSpec{
		ID: in.ID, Base: in.Base, Parents: in.Parents, Index: in.Index, IndexBytes: in.IndexBytes,
		Manifest: in.Manifest, DomainKey: domainKey,
	}, f.Open, nil))
	return c.Bytes()
}
