package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// uploaded uploads layers and says what to import.
func uploaded(r *remote, src *bench, ids []snapshot.ID) []ImportSpec {
	r.t.Helper()
	src.packed(ids...)
	var chain []ImportSpec
	for _, id := range ids {
		chain = append(chain, r.upload(src, id))
	}
	return chain
}

// requireHeld checks that these snapshots are held and no others.
func requireHeld(t testing.TB, b *bench, ids ...snapshot.ID) {
	t.Helper()
	got := []snapshot.ID{}
	for _, in := range b.List() {
		require.True(t, in.State.Usable(), in.Err)
		got = append(got, in.ID)
	}
	require.ElementsMatch(t, ids, got)
}

// Of a chain only the last tree is written, as one layer; it is a layer as any other,
// and those before it can be had later.
func TestImportChain(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src, dst := newBench(t, driver), newBench(t, driver)
		ids := history(t, src)
		r := newRemote(t)
		chain := uploaded(r, src, ids)
		require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
		requireHeld(t, dst, ids[2])
		want := src.requireTree(ids[2])
		require.Equal(t, want, dst.requireTree(ids[2]))
		requireSame(t, src, dst, ids[2])
		require.NoError(t, dst.Verify(t.Context(), ids[2]))
		in, err := dst.Lookup(ids[2])
		require.NoError(t, err)
		require.Equal(t, Durable, in.State)
		require.Equal(t, want, in.Manifest)
		require.Empty(t, in.Base)
		require.Empty(t, in.WireBase)
		require.NotEqual(t, chain[2].Index, in.Index, "an index of its own")
		require.Equal(t, 3, dst.chainLen(ids[2]), "elsewhere it is three layers")
		require.NoError(t, dst.ImportChain(t.Context(), chain, nil, nil), "what is held is not fetched")

		dst.reopen()
		require.Equal(t, 3, dst.chainLen(ids[2]))
		again, err := dst.Lookup(ids[2])
		require.NoError(t, err)
		require.Equal(t, in, again)
		requireSame(t, src, dst, ids[2])

		// The line goes on here, and back.
		four := dst.job(func(dir string) { write(t, dir+"/src/d", "from afar") }, ids[2])
		dst.packed(four.ID)
		require.NoError(t, src.Import(t.Context(), r.upload(dst, four.ID), r.open, nil))
		require.Equal(t, dst.requireTree(four.ID), src.requireTree(four.ID))

		require.NoError(t, dst.ImportChain(t.Context(), chain[:2], r.open, nil))
		requireHeld(t, dst, ids[1], ids[2], four.ID)
		requireSame(t, src, dst, ids[1])
		require.NoError(t, dst.Verify(t.Context(), ids[1]))
		require.NoError(t, dst.Drop(t.Context(), ids[1]), "nothing stands on it")
		requireSame(t, src, dst, ids[2])
	})
}

// It begins after what is held of the chain.
func TestImportChainOntoHeld(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src, dst := newBench(t, driver), newBench(t, driver)
		ids := history(t, src)
		r := newRemote(t)
		chain := uploaded(r, src, ids)
		require.NoError(t, dst.Import(t.Context(), chain[0], r.open, nil))
		var m view.Meter
		require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, &m))
		requireHeld(t, dst, ids[0], ids[2])
		in, err := dst.Lookup(ids[2])
		require.NoError(t, err)
		require.Equal(t, ids[0], in.Base)
		require.Equal(t, ids[0], in.WireBase)
		require.Equal(t, 3, dst.chainLen(ids[2]))
		for range 2 {
			requireSame(t, src, dst, ids[2])
			require.NoError(t, dst.Verify(t.Context(), ids[2]))
			dst.reopen()
		}
	})
}

// What a later layer replaces or deletes is neither fetched nor written.
func TestImportChainWritesOnce(t *testing.T) {
	driver := overlayOrCopy(t)
	src, dst := newBench(t, driver), newBench(t, driver)
	big := func(seed uint64) string { return string(chaff(seed, 4<<20)) }
	one := src.job(func(dir string) { write(t, dir+"/a", big(1)); write(t, dir+"/b", big(2)); write(t, dir+"/c", "small") })
	two := src.job(func(dir string) { write(t, dir+"/a", big(3)); require.NoError(t, os.Remove(dir+"/b")) }, one.ID)
	r := newRemote(t)
	chain := uploaded(r, src, []snapshot.ID{one.ID, two.ID})
	old, err := src.Lookup(one.ID)
	require.NoError(t, err)
	require.NotEmpty(t, old.Blobs)
	var m view.Meter
	require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, &m))
	require.Less(t, m.Written(), int64(5<<20))
	requireSame(t, src, dst, two.ID)
}

// A line that goes from host to host begins anew where it would have, had all of its
// layers been held everywhere.
func TestImportChainKeepsTheBound(t *testing.T) {
	driver := overlayOrCopy(t)
	src, dst := newBench(t, driver), newBench(t, driver)
	ids := grow(t, src, "", 0, 20)
	r := newRemote(t)
	chain := uploaded(r, src, ids)
	require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
	more := grow(t, dst, ids[19], 20, 13)
	infos := dst.packed(more...)
	require.Equal(t, more[10], infos[11].WireBase)
	require.Empty(t, infos[12].WireBase, "the layer beyond the 32nd")
}

func TestImportChainRefuses(t *testing.T) {
	driver := overlayOrCopy(t)
	src := newBench(t, driver)
	ids := history(t, src)
	good := newRemote(t)
	specs := uploaded(good, src, ids)
	own := func(i int) snapshot.Digest {
		in, err := src.Lookup(ids[i])
		require.NoError(t, err)
		return in.Blobs[0].Digest
	}
	for name, bad := range map[string]func(r *remote, c []ImportSpec) []ImportSpec{
		"nothing":                 func(*remote, []ImportSpec) []ImportSpec { return nil },
		"a gap":                   func(_ *remote, c []ImportSpec) []ImportSpec { return []ImportSpec{c[0], c[2]} },
		"the wrong way round":     func(_ *remote, c []ImportSpec) []ImportSpec { return []ImportSpec{c[1], c[0]} },
		"without its beginning":   func(_ *remote, c []ImportSpec) []ImportSpec { return c[1:] },
		"a bit in a middle index": func(r *remote, c []ImportSpec) []ImportSpec { flip(r, c[1].Index, 200); return c },
		"no middle index":         func(r *remote, c []ImportSpec) []ImportSpec { delete(r.blobs, c[1].Index); return c },
		"no first index":          func(r *remote, c []ImportSpec) []ImportSpec { delete(r.blobs, c[0].Index); return c },
		"a bit in the first pack": func(r *remote, c []ImportSpec) []ImportSpec { flip(r, own(0), 1000); return c },
		"another middle manifest": func(_ *remote, c []ImportSpec) []ImportSpec { c[1].Manifest[0] ^= 1; return c },
		"another last manifest":   func(_ *remote, c []ImportSpec) []ImportSpec { c[2].Manifest[0] ^= 1; return c },
		"a middle index twice": func(_ *remote, c []ImportSpec) []ImportSpec {
			c[2].Index, c[2].IndexBytes = c[1].Index, c[1].IndexBytes
			return c
		},
		"two keys": func(_ *remote, c []ImportSpec) []ImportSpec { c[1].DomainKey = []byte("another"); return c },
		"another key": func(_ *remote, c []ImportSpec) []ImportSpec {
			for i := range c {
				c[i].DomainKey = []byte("another")
			}
			return c
		},
		"a path for an id": func(_ *remote, c []ImportSpec) []ImportSpec { c[2].ID = "../x"; return c },
	} {
		t.Run(name, func(t *testing.T) {
			dst, r := newBench(t, driver), newRemote(t)
			for d, b := range good.blobs {
				r.blobs[d] = append([]byte(nil), b...)
			}
			require.Error(t, dst.ImportChain(t.Context(), bad(r, append([]ImportSpec(nil), specs...)), r.open, nil))
			require.Empty(t, dst.List())
			for _, d := range []string{"views", "indexes", "manifests", "packs", "tmp"} {
				entries, err := os.ReadDir(filepath.Join(dst.dir, d))
				require.NoError(t, err)
				require.Empty(t, entries, d)
			}
			require.NoError(t, dst.ImportChain(t.Context(), specs, good.open, nil), "a good copy is taken afterwards")
			requireSame(t, src, dst, ids[2])
		})
	}
}

// A folded layer that was damaged is found out, and fetched again.
func TestDamagedFoldedLayer(t *testing.T) {
	driver := overlayOrCopy(t)
	src, dst := newBench(t, driver), newBench(t, driver)
	one := src.job(func(dir string) { write(t, dir+"/f", strings.Repeat("x", 5000)); write(t, dir+"/g", "g") })
	two := src.job(func(dir string) { write(t, dir+"/g", "h") }, one.ID)
	r := newRemote(t)
	require.NoError(t, dst.ImportChain(t.Context(), uploaded(r, src, []snapshot.ID{one.ID, two.ID}), r.open, nil))
	m, err := dst.Tree(t.Context(), two.ID)
	require.NoError(t, err)
	e, ok := m.Find("f")
	require.True(t, ok)
	overwrite(t, e, "damage")
	require.Error(t, dst.Verify(t.Context(), two.ID))
	in, err := dst.Lookup(two.ID)
	require.NoError(t, err)
	require.Equal(t, Suspect, in.State)
	require.NoError(t, dst.ImportChain(t.Context(), uploaded(r, src, []snapshot.ID{one.ID, two.ID}), r.open, nil))
	requireSame(t, src, dst, two.ID)
}
