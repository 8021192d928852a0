package store

import (
	"bufio"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// twins makes two layers on one base that changed nothing, whose indexes and manifests
// are the same files.
func twins(t *testing.T, b *bench) (base, one, two snapshot.ID) {
	t.Helper()
	base = b.job(func(dir string) { write(t, dir+"/f", string(chaff(1, 100_000))) }).ID
	one, two = b.job(nil, base).ID, b.job(nil, base).ID
	return base, one, two
}

// requireFiles checks that all that the row of a layer names is there.
func (b *bench) requireFiles(id snapshot.ID) {
	b.t.Helper()
	in, err := b.Lookup(id)
	require.NoError(b.t, err)
	require.FileExists(b.t, b.indexPath(in.Index))
	require.FileExists(b.t, b.manifestPath(in.Manifest))
	for _, bl := range in.Blobs[max(len(in.Blobs)-1, 0):] {
		f, _, err := b.OpenBlob(b.t.Context(), bl.Digest)
		require.NoError(b.t, err)
		require.NoError(b.t, f.Close())
	}
}

// A fetch that fails takes nothing from another one whose layer has the same index and
// manifest, and that has no row yet.
func TestFailedImportLeavesTheFilesOfAnother(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		for _, few := range []int{0, 3} {
			src, dst := newBench(t, driver), newBench(t, driver)
			base, _, _ := twins(t, src)
			src.packed(base)
			r := newRemote(t)
			spec := r.upload(src, base)
			other := spec
			other.ID = newID(t)
			dst.fewer = few

			entered, block := make(chan struct{}), make(chan struct{})
			done := make(chan error, 1)
			go func() {
				done <- dst.Import(t.Context(), spec, func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
					if d != spec.Index {
						close(entered)
						<-block
					}
					return r.open(ctx, d, off, n)
				}, nil)
			}()
			<-entered
			require.Eventually(t, func() bool {
				return fileDigest(dst.indexPath(spec.Index), "index", spec.Index) == nil &&
					fileDigest(dst.manifestPath(spec.Manifest), "manifest", spec.Manifest) == nil
			}, waitMost, tick)
			gone := errors.New("no connection")
			require.ErrorIs(t, dst.Import(t.Context(), other, func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
				if d != spec.Index {
					return nil, gone
				}
				return r.open(ctx, d, off, n)
			}, nil), gone)
			close(block)
			require.NoError(t, <-done)
			dst.requireFiles(spec.ID)
			dst.reopen()
			in, err := dst.Lookup(spec.ID)
			require.NoError(t, err)
			require.Equal(t, Durable, in.State, in.Err)
			dst.requireTree(spec.ID)
			require.NoError(t, dst.Verify(t.Context(), spec.ID))
		}
	})
}

// A layer that is removed takes nothing from one that is being packed.
func TestRemovedLayerLeavesTheFilesOfOneThatIsPacked(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		base, one, two := twins(t, b)
		b.packed(base, one)
		require.NoError(t, b.Drop(t.Context(), two))
		two = b.job(nil, base).ID
		l := b.layers[two]
		b.sync(t.Context(), l)
		e, err := b.encode(t.Context(), l)
		require.NoError(t, err)
		in, err := b.Lookup(one)
		require.NoError(t, err)
		require.Equal(t, in.Manifest, e.ix.Manifest)

		// As savePacked does it, with the removal in the middle.
		index, bytes, err := b.writeIndexBy(two, func(w *bufio.Writer) (snapshot.Digest, error) { return pack.WriteIndex(w, e.ix) })
		require.NoError(t, err)
		require.Equal(t, in.Index, index)
		require.NoError(t, b.Drop(t.Context(), one))
		require.NoError(t, b.saveTree(t.Context(), two, e.ix.Manifest, e.tree))
		require.NoError(t, b.savedPacked(t.Context(), l, e, index, bytes))
		b.named.release(two)
		b.requireFiles(two)
		b.reopen()
		b.requireTree(two)
		require.NoError(t, b.Verify(t.Context(), two))

		// With the last row that names it the file goes.
		require.NoError(t, b.Drop(t.Context(), two))
		require.NoFileExists(t, b.indexPath(index))
	})
}
