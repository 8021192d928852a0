package store

import (
	"context"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// counting is r.open, and what was read of that.
func counting(r *remote) (OpenBlobFunc, *atomic.Int64) {
	n := &atomic.Int64{}
	return func(ctx context.Context, d snapshot.Digest, off, want int64) (io.ReadCloser, error) {
		rc, err := r.open(ctx, d, off, want)
		if err != nil {
			return nil, err
		}
		return &countedReader{rc, n}, nil
	}, n
}

type countedReader struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// A layer that was a chain says what it has of each: what is missing of that, and no
// more, is fetched for a snapshot that stands on one of them.
func TestWhatFoldedOnesHave(t *testing.T) {
	const mib = 1 << 20
	for name, onBase := range map[string]bool{"against nothing": false, "on a base that is held": true} {
		t.Run(name, func(t *testing.T) {
			driver := overlayOrCopy(t)
			src, dst := newBench(t, driver), newBench(t, driver)
			file := func(dir, name string, seed uint64, n int) { write(t, dir+"/"+name, string(chaff(seed, n))) }
			r := newRemote(t)
			var root []snapshot.ID
			if onBase {
				root = []snapshot.ID{src.job(func(dir string) { file(dir, "root", 9, mib) }).ID}
				require.NoError(t, dst.ImportChain(t.Context(), uploaded(r, src, root), r.open, nil))
			}
			one := src.job(func(dir string) { file(dir, "a", 1, 4*mib); file(dir, "b", 2, 2*mib); file(dir, "c", 3, mib) }, root...)
			two := src.job(func(dir string) { file(dir, "b", 4, 3*mib); require.NoError(t, os.Remove(dir+"/c")) }, one.ID)
			three := src.job(func(dir string) { file(dir, "d", 5, mib) }, two.ID)
			other := src.job(func(dir string) { file(dir, "e", 6, mib) }, one.ID)
			// Others of the domain, some with as many entries, are no reason to fetch more.
			for i := range 3 {
				loner := src.job(func(dir string) {
					file(dir, "x", uint64(20+i), mib/2)
					file(dir, "y", uint64(30+i), 9)
					file(dir, "z", uint64(40+i), 9)
				})
				require.NoError(t, dst.ImportChain(t.Context(), uploaded(r, src, []snapshot.ID{loner.ID}), r.open, nil))
			}
			require.NoError(t, dst.ImportChain(t.Context(), uploaded(r, src, []snapshot.ID{one.ID, two.ID, three.ID}), r.open, nil))
			for range 2 {
				in, err := dst.Lookup(three.ID)
				require.NoError(t, err)
				require.Len(t, in.Of, 2)
				require.Equal(t, []snapshot.ID{one.ID, two.ID}, []snapshot.ID{in.Of[0].ID, in.Of[1].ID})
				require.InDelta(t, 4*mib, in.Of[0].Bytes, mib/10)
				require.InDelta(t, 3*mib, in.Of[1].Bytes, mib/10)
				require.Equal(t, in.TreeBytes-mib, in.Of[1].Tree, "without d")
				require.Equal(t, in.TreeBytes-4*mib, in.Of[0].Tree, "without b, too")
				dst.reopen()
			}
			open, n := counting(r)
			require.NoError(t, dst.ImportChain(t.Context(), uploaded(r, src, []snapshot.ID{one.ID, other.ID}), open, nil))
			require.InDelta(t, 2*mib+mib+mib, n.Load(), mib/4, "b and c as they were, and e")
			requireSame(t, src, dst, other.ID)
			require.NoError(t, dst.Verify(t.Context(), other.ID))
		})
	}
}

// A merge has content of parents that its layer does not stand on: of one that is held
// nothing is fetched again.
func TestParentBesideTheBase(t *testing.T) {
	const mib = 1 << 20
	driver := overlayOrCopy(t)
	src, dst := newBench(t, driver), newBench(t, driver)
	base := src.job(func(dir string) { write(t, dir+"/a", string(chaff(1, 4*mib))) })
	left := src.job(func(dir string) { write(t, dir+"/l", string(chaff(2, 2*mib))) }, base.ID)
	right := src.job(func(dir string) { write(t, dir+"/r", string(chaff(3, 2*mib))) }, base.ID)
	both := src.job(func(dir string) { write(t, dir+"/n", string(chaff(4, mib))) }, left.ID, right.ID)
	r := newRemote(t)
	for _, id := range []snapshot.ID{base.ID, left.ID, right.ID} {
		require.NoError(t, dst.ImportChain(t.Context(), uploaded(r, src, []snapshot.ID{id}), r.open, nil))
	}
	open, n := counting(r)
	chain := uploaded(r, src, []snapshot.ID{both.ID})
	require.Contains(t, []snapshot.ID{left.ID, right.ID}, chain[0].Base)
	require.NoError(t, dst.ImportChain(t.Context(), chain, open, nil))
	require.Less(t, n.Load(), int64(mib+mib/10))
	requireSame(t, src, dst, both.ID)
}
