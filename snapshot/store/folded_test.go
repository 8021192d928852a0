package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// folded imports the chain of a history into a fresh store.
func folded(t *testing.T) (src, dst *bench, r *remote, chain []ImportSpec) {
	t.Helper()
	driver := overlayOrCopy(t)
	src, dst = newBench(t, driver), newBench(t, driver)
	r = newRemote(t)
	chain = uploaded(r, src, history(t, src))
	require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
	return src, dst, r, chain
}

// Its index is nobody else's, so what says whether it can be had elsewhere are those
// that it was made of; that is known to the next process, too.
func TestFoldedIsHadElsewhere(t *testing.T) {
	_, dst, r, chain := folded(t)
	dst.reopen()
	in, err := dst.Lookup(chain[2].ID)
	require.NoError(t, err)
	require.True(t, in.Folded)
	asked := map[snapshot.Digest]int64{}
	spec := EvictSpec{Confirm: func(_ context.Context, _ snapshot.ID, blobs []Blob) error {
		for _, b := range blobs {
			asked[b.Digest] = b.Bytes
			if n, err := r.size(t.Context(), b.Digest); err != nil || n != b.Bytes {
				return errors.New("it is not there")
			}
		}
		return nil
	}, Enough: func(int64) bool { return false }}
	got, err := dst.Evict(t.Context(), spec)
	require.NoError(t, err)
	require.Len(t, got.Evicted, 1, "%+v", got.Kept)
	for _, s := range chain {
		require.Equal(t, s.IndexBytes, asked[s.Index])
	}
	require.NotContains(t, asked, in.Index)
}

// Its index is made again from those, or can't be.
func TestFoldedIndexIsMadeAgain(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(path string){
		"a bit":   func(path string) { flipFile(t, path, 99) },
		"is gone": func(path string) { require.NoError(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			src, dst, r, chain := folded(t)
			in, err := dst.Lookup(chain[2].ID)
			require.NoError(t, err)
			harm(dst.indexPath(in.Index))
			dst.reopen()
			got, err := dst.Scrub(t.Context(), ScrubOptions{Open: r.open, Size: r.size})
			require.NoError(t, err)
			require.Zero(t, got.Left(), "%+v", got.Damages)
			require.Equal(t, "index", got.Damages[0].What)
			require.Equal(t, fromBlobStore, got.Damages[0].From)
			require.NoError(t, dst.Verify(t.Context(), in.ID))
			requireSame(t, src, dst, in.ID)
		})
	}
	t.Run("from bad ones", func(t *testing.T) {
		_, dst, r, chain := folded(t)
		in, err := dst.Lookup(chain[2].ID)
		require.NoError(t, err)
		flipFile(t, dst.indexPath(in.Index), 99)
		flip(r, chain[1].Index, 200)
		dst.reopen()
		got, err := dst.Scrub(t.Context(), ScrubOptions{Open: r.open, Size: r.size})
		require.NoError(t, err)
		require.Positive(t, got.Left())
		again, err := dst.Lookup(in.ID)
		require.NoError(t, err)
		require.Equal(t, Suspect, again.State)
	})
}

// That of a large layer is made again without any list in memory.
func TestLongFoldedIndexIsMadeAgain(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	src, dst, r := newBench(t, view.NameErofs), newBench(t, view.NameErofs), newRemote(t)
	chain := uploaded(r, src, history(t, src))
	require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
	in, err := dst.Lookup(chain[2].ID)
	require.NoError(t, err)
	dst.few = 3
	scrub := func(o ScrubOptions) *ScrubReport {
		t.Helper()
		dst.reopen()
		got, err := dst.Scrub(t.Context(), o)
		require.NoError(t, err)
		return &got
	}
	index := dst.indexPath(in.Index)
	flipFile(t, index, 99)
	require.Positive(t, scrub(ScrubOptions{Open: r.open, Size: r.size, NoRepair: true}).Left())
	got := scrub(ScrubOptions{Open: r.open, Size: r.size})
	require.Zero(t, got.Left(), "%+v", got.Damages)
	require.Len(t, got.Damages, 1)
	require.Equal(t, "index", got.Damages[0].What)
	require.Equal(t, fromBlobStore, got.Damages[0].From)
	require.NoError(t, dst.Verify(t.Context(), in.ID))
	requireSame(t, src, dst, in.ID)

	l := dst.layers[in.ID]
	c := &checkup{x: &scrubber{s: dst.Store, o: ScrubOptions{Open: r.open}}, l: l, in: in}
	require.NoError(t, c.refoldInParts(t.Context()), "the part that all would do as well")
	require.Empty(t, scrub(ScrubOptions{Open: r.open, Size: r.size}).Damages)

	flipFile(t, index, 99)
	flip(r, chain[1].Index, 200)
	require.Positive(t, scrub(ScrubOptions{Open: r.open, Size: r.size}).Left())
	requireEmptyDir(t, filepath.Join(dst.dir, "tmp"))
}

// What the blob store lost of a chain is offered by who has a layer of it to himself
// rather than by who has all as one.
func TestFoldedOffersLast(t *testing.T) {
	_, dst, r, chain := folded(t)
	require.NoError(t, dst.Import(t.Context(), chain[0], r.open, nil))
	in, err := dst.Lookup(chain[0].ID)
	require.NoError(t, err)
	require.False(t, in.Folded)
	own := dst.layers[chain[0].ID].packs[0].Digest
	for range 20 { // of a map's order
		require.Equal(t, chain[0].ID, dst.sourceOfBlob(own).info.ID)
		l, _ := dst.makerOf(own)
		require.Equal(t, chain[0].ID, l.info.ID)
	}
	got, err := dst.Reoffer(t.Context(), own)
	require.NoError(t, err)
	require.Equal(t, chain[0].ID, got.ID)
}
