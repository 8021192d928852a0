package store

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// What is imported in parts is, to the byte, what is imported as one: alone and as a
// chain, on nothing, on what is held, and beside what is alike.
func TestImportInParts(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	t.Run(view.NameErofs, func(t *testing.T) { testImportInParts(t, view.NameErofs) })
	t.Run(view.NameCopy, func(t *testing.T) { testImportInParts(t, view.NameCopy) })
}

func testImportInParts(t *testing.T, driver string) {
	src := newBench(t, view.NameErofs)
	src.Store.o.MaxChain = 5
	dir := filepath.Join(t.TempDir(), "d")
	thicket(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), noise(5<<20, 1), 0o600))
	rng := rand.New(rand.NewPCG(3, 7))
	ids := []snapshot.ID{src.create(dir, "").ID}
	for range 6 {
		disturb(t, dir, rng, 6)
		ids = append(ids, src.create(dir, ids[len(ids)-1]).ID)
	}
	r := newRemote(t)
	var line []ImportSpec // of which the first and the sixth stand on nothing
	for _, id := range ids {
		line = append(line, r.upload(src, id))
	}
	require.Empty(t, line[5].Base)
	for what, chains := range map[string][][]ImportSpec{
		"one by one":         {line[:1], line[1:2], line[2:3], line[3:4], line[4:5], line[5:6], line[6:]},
		"a chain":            {line[:5]},
		"a chain on another": {line[:2], line[2:5]},
		"two alike":          {line[:5], line[5:]},
		"parts of a chain":   {line[:3], line[1:2], line[:1]},
	} {
		all := []int{3}
		if what == "a chain" && !testing.Short() {
			all = []int{1, 3, 40}
		}
		for _, fewer := range all {
			t.Run(fmt.Sprint(what, ", ", fewer), func(t *testing.T) {
				whole, parts := newBench(t, driver), newBench(t, driver)
				parts.fewer = fewer
				for _, c := range chains {
					if b := c[0].Base; b != "" && !parts.holds(b) {
						continue
					}
					id := c[len(c)-1].ID
					for _, b := range []*bench{whole, parts} {
						require.NoError(t, b.ImportChain(t.Context(), c, r.open, nil))
						b.trees.drop(id)
					}
					requireAlike(t, whole, parts, id)
					require.Equal(t, whole.requireTree(id), parts.requireTree(id))
					parts.trees.drop(id)
					require.NoError(t, parts.Verify(t.Context(), id))
					to := filepath.Join(t.TempDir(), "back")
					_, err := parts.Restore(t.Context(), RestoreSpec{Snapshot: id, Dir: to})
					require.NoError(t, err)
					require.Equal(t, digestOf(t, src.read(id)), digestOf(t, scanHashed(t, to)))
				}
				parts.reopen()
				for _, in := range parts.List() {
					require.NoError(t, os.Remove(parts.srcPath(in.ID)))
					parts.requireTree(in.ID)
				}
			})
		}
	}
}

func (b *bench) holds(id snapshot.ID) bool {
	_, err := b.Lookup(id)
	return err == nil
}

// requireAlike checks that two stores have the same of a layer: index, places, row.
func requireAlike(t *testing.T, a, b *bench, id snapshot.ID) {
	t.Helper()
	x, err := a.Lookup(id)
	require.NoError(t, err)
	y, err := b.Lookup(id)
	require.NoError(t, err)
	y.Made = x.Made
	require.Equal(t, x, y)
	require.Equal(t, read(t, a.srcPath(id)), read(t, b.srcPath(id)))
	require.Equal(t, a.layers[id].below, b.layers[id].below)
	require.Equal(t, a.layers[id].chain, b.layers[id].chain)
}

// An index that may be one of a large tree, and is not, is fetched once.
func TestImportOfSmallIndexOnce(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	src, dst := newBench(t, view.NameErofs), newBench(t, view.NameErofs)
	one := src.job(func(dir string) {
		for i := range 10 {
			write(t, fmt.Sprint(dir, "/", i), fmt.Sprint("content ", i))
		}
	})
	src.packed(one.ID)
	r := newRemote(t)
	spec := r.upload(src, one.ID)
	dst.close()
	dst.o.CacheEntries = 20
	dst.open()
	require.True(t, dst.isLarge("", int(spec.IndexBytes/leastEntryBytes)), "it must be counted")
	fetched := 0
	open := func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
		if d == spec.Index {
			fetched++
		}
		return r.open(ctx, d, off, n)
	}
	b, again, done, err := dst.bringInParts(t.Context(), &spec, nil, open)
	require.NoError(t, err)
	require.Nil(t, b)
	body, err := again(t.Context(), spec.Index, 0, spec.IndexBytes)
	require.NoError(t, err)
	data, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	require.Equal(t, r.blobs[spec.Index], data)
	require.Equal(t, 1, fetched)
	done()
	require.NoError(t, dst.Import(t.Context(), spec, open, nil))
	require.Equal(t, 2, fetched)
	requireSame(t, src, dst, one.ID)
	requireEmptyDir(t, filepath.Join(dst.dir, "tmp"))
}
