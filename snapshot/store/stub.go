package store

import (
	"context"
	"errors"
	"io"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

var errNotYet = errors.New("not built yet")

// Store is one host's snapshots. Methods may be called from any goroutine.
type Store struct{}

// Open takes the lock, recovers what a crash left and makes the store ready.
func Open(ctx context.Context, dir string, o Options) (*Store, error) { return nil, errNotYet }

// Close ends it. Views stay mounted until they are sealed or discarded.
func (s *Store) Close() error { return errNotYet }

// ID is drawn once, when the store is made.
func (s *Store) ID() snapshot.ID { return "" }

// Dir is the store's directory.
func (s *Store) Dir() string { return "" }

// Driver makes the views.
func (s *Store) Driver() view.Driver { return nil }

// Prepare makes a view.
func (s *Store) Prepare(ctx context.Context, p PrepareSpec) (*Attached, error) { return nil, errNotYet }

// Needs returns the snapshots that Prepare would need and that are not usable here.
func (s *Store) Needs(p PrepareSpec) []snapshot.ID { return nil }

// Seal turns a view into a layer.
func (s *Store) Seal(ctx context.Context, id snapshot.ID, outcome []byte) (Info, error) {
	return Info{}, errNotYet
}

// Discard drops a view.
func (s *Store) Discard(ctx context.Context, id snapshot.ID) error { return errNotYet }

// Views lists open views and sealed ones that were not reported.
func (s *Store) Views() []OpenView { return nil }

// Reported forgets the outcome of a sealed view: the coordinator knows it.
func (s *Store) Reported(ctx context.Context, id snapshot.ID) error { return errNotYet }

// Lookup returns snapshot.ErrNotFound for what is not held.
func (s *Store) Lookup(id snapshot.ID) (Info, error) { return Info{}, errNotYet }

// List returns all layers, in the order in which they were sealed or imported.
func (s *Store) List() []Info { return nil }

// Tree returns the exact tree of a snapshot. Callers must not change it.
func (s *Store) Tree(ctx context.Context, id snapshot.ID) (*snapshot.Manifest, error) {
	return nil, errNotYet
}

// Run does the background work until ctx ends.
func (s *Store) Run(ctx context.Context) error { return errNotYet }

// First packs these, and what they stand on, before others.
func (s *Store) First(ids ...snapshot.ID) {}

// Packed waits until a layer is packed. Run must be running.
func (s *Store) Packed(ctx context.Context, id snapshot.ID) (Info, error) { return Info{}, errNotYet }

// MarkDurable notes that the blob store has all of a layer.
func (s *Store) MarkDurable(ctx context.Context, id snapshot.ID) error { return errNotYet }

// OpenBlob opens a pack or an index.
func (s *Store) OpenBlob(ctx context.Context, d snapshot.Digest) (io.ReadSeekCloser, int64, error) {
	return nil, 0, errNotYet
}

// Import makes a snapshot of another host usable here.
func (s *Store) Import(ctx context.Context, spec ImportSpec, open OpenBlobFunc, m *view.Meter) error {
	return errNotYet
}

// Mount shows a snapshot read-only at target.
func (s *Store) Mount(ctx context.Context, id snapshot.ID, target string) (io.Closer, error) {
	return nil, errNotYet
}

// Remove deletes a durable layer that nothing stands on.
func (s *Store) Remove(ctx context.Context, id snapshot.ID) error { return errNotYet }

// Drop is Remove also for a layer of which there is no other copy.
func (s *Store) Drop(ctx context.Context, id snapshot.ID) error { return errNotYet }

// Verify reads all of a layer and compares it with its digests.
func (s *Store) Verify(ctx context.Context, id snapshot.ID) error { return errNotYet }
