package promises

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestEvilLayers offers layers that were made to do harm. A store refuses them and
// keeps nothing, or shows exactly what their manifest says, which is then no harm;
// outside of it nothing changes either way.
func TestEvilLayers(t *testing.T) {
	n := count(92, 300, 1500)
	_, seed := seeded(t)
	names := make([]string, 0, len(attacks))
	for name := range attacks {
		names = append(names, name)
	}
	slices.Sort(names)
	drivers(t, func(t *testing.T, driver string) {
		began := time.Now()
		e := newEvil(t, driver)
		refused, harmless := 0, 0
		for i := range n / len(working(t)) {
			if e.offer(names[i%len(names)], rand.New(rand.NewPCG(seed, uint64(i)))) {
				refused++
			} else {
				harmless++
			}
		}
		require.Greater(t, refused, harmless)
		e.untouched()
		record(t, began, "malicious layers", refused+harmless, "of %d kinds: %d refused, %d harmless and shown exactly, nothing outside touched", len(names), refused, harmless)
	})
}

// evil is a store that gets such layers.
type evil struct {
	*lab
	good   *store.ImportSpec // a layer on base, in far
	index  []byte
	base   *snapshot.Manifest
	baseID snapshot.ID
	victim string
	before map[string]string
}

func newEvil(t *testing.T, driver string) *evil {
	dir := tempDir(t)
	e := &evil{lab: newLab(t, dir, driver), victim: filepath.Join(dir, "victim")}
	require.NoError(t, os.MkdirAll(filepath.Join(e.victim, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(e.victim, "canary"), []byte("alive"), 0o644))
	e.baseID = e.job(func(dir string) {
		require.NoError(t, garden(dir, 3, 10, false))
		require.NoError(t, os.Mkdir(filepath.Join(dir, "base"), 0o755))
		require.NoError(t, os.Mkdir(filepath.Join(dir, "p0"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "base/kept"), []byte("kept"), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "base/none"), nil, 0o644))
		require.NoError(t, os.Link(filepath.Join(dir, "base/none"), filepath.Join(dir, "base/none2")))
		require.NoError(t, os.Symlink(e.victim, filepath.Join(dir, "base/out")))
	})
	top := e.job(func(dir string) { require.NoError(t, garden(dir, 9, 25, false)) }, e.baseID)
	in := e.packed(e.baseID, top)[1]
	e.good = e.upload(in)
	var err error
	e.index, err = os.ReadFile(filepath.Join(dir, "store", "indexes", in.Index.String()))
	require.NoError(t, err)
	require.NoError(t, e.s.Drop(t.Context(), top))
	e.base, err = e.s.Tree(t.Context(), e.baseID)
	require.NoError(t, err)
	ix, err := pack.ReadIndex(bytes.NewReader(e.index))
	require.NoError(t, err)
	require.Equal(t, e.index, (&rawIndex{ix: ix}).encodeLike(e.index), "the raw writer must write what the real one does")
	e.before = e.outside()
	return e
}

// encodeLike writes the index compressed if that one is, or not.
func (x *rawIndex) encodeLike(b []byte) []byte {
	if b[72] == 1 {
		return b // compressed by other settings: nothing to compare byte for byte
	}
	return x.encode()
}

// outside describes everything that is not the store's: names, inodes, times and
// contents.
func (e *evil) outside() map[string]string {
	found := map[string]string{}
	require.NoError(e.t, filepath.WalkDir(e.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, e.dir)
		switch rel {
		case "/store", "/slots", "/seen":
			return filepath.SkipDir
		case "":
			return nil
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		sum := ""
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			sum = digestOf(b).String()
		}
		found[rel] = fmt.Sprint(st.Ino, st.Mode, st.Uid, st.Nlink, st.Mtim, st.Ctim, sum)
		return nil
	}))
	return found
}

func (e *evil) untouched() {
	e.t.Helper()
	require.Equal(e.t, e.before, e.outside(), "something outside of the store was touched")
}

// offer makes one layer and imports it. It reports whether it was refused.
func (e *evil) offer(name string, r *rand.Rand) (refused bool) {
	t := e.t
	ix, err := pack.ReadIndex(bytes.NewReader(e.index))
	require.NoError(t, err)
	a := &attack{rawIndex: rawIndex{ix: ix}, r: r, base: e.base, victim: e.victim}
	attacks[name](a)
	spec := *e.good
	spec.ID = newID(t)
	m := e.seal(a, &spec)
	b := a.encode()
	spec.Index, spec.IndexBytes = digestOf(b), int64(len(b))
	open := func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
		if d == spec.Index {
			return io.NopCloser(bytes.NewReader(b)), nil
		}
		if a.serve != nil {
			data, err := os.ReadFile(filepath.Join(e.far.dir, d.String()))
			if err != nil {
				return nil, err
			}
			data = a.serve(d, data)
			return io.NopCloser(bytes.NewReader(data[min(off, int64(len(data))):])), nil
		}
		return e.far.open(ctx, d, off, n)
	}
	var was, is runtime.MemStats
	runtime.ReadMemStats(&was)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = e.s.Import(ctx, spec, open, &view.Meter{})
	runtime.ReadMemStats(&is)
	require.Less(t, (is.TotalAlloc-was.TotalAlloc)>>20, uint64(256), "%s: megabytes allocated", name)
	require.False(t, errors.Is(err, context.DeadlineExceeded), "%s: does not end", name)
	if err != nil {
		_, lerr := e.s.Lookup(spec.ID)
		require.ErrorIs(t, lerr, snapshot.ErrNotFound, name)
	} else {
		e.harmless(name, spec.ID, m)
		require.NoError(t, e.s.Drop(t.Context(), spec.ID))
	}
	views, rerr := os.ReadDir(filepath.Join(e.dir, "store", "views"))
	require.NoError(t, rerr)
	require.Len(t, views, 1, "%s: something is left of it: %v", name, err)
	e.untouched()
	return err != nil
}

// seal gives the layer the manifest that it makes, if it makes one.
func (e *evil) seal(a *attack, spec *store.ImportSpec) *snapshot.Manifest {
	if a.lie {
		spec.Manifest[0] ^= 1
		a.ix.Manifest = spec.Manifest
		return nil
	}
	ix, err := pack.ReadIndex(bytes.NewReader(a.encode()))
	if err != nil {
		return nil
	}
	m, err := tree.Apply(e.base, ix.Changes)
	if err != nil {
		return nil
	}
	if d, err := pack.ManifestDigest(m); err == nil {
		spec.Manifest, a.ix.Manifest = d, d
	}
	return m
}

// harmless checks that a layer which was accepted is what its manifest says.
func (e *evil) harmless(name string, id snapshot.ID, want *snapshot.Manifest) {
	t := e.t
	require.NotNil(t, want, name)
	e.shown(id, func(dir string) {
		got, err := tree.Scan(t.Context(), dir, tree.ScanOptions{Owners: true})
		require.NoError(t, err, name)
		bare := func(m *snapshot.Manifest) *snapshot.Manifest {
			out := &snapshot.Manifest{Entries: slices.Clone(m.Entries)}
			for i := range out.Entries {
				e := &out.Entries[i]
				e.Source = ""
				switch e.Type {
				case snapshot.TypeFile:
					e.Chunks = []snapshot.Chunk{}
				case snapshot.TypeSymlink:
					e.Mode = 0o777 // Linux has no other
				}
			}
			return out
		}
		require.Empty(t, tree.Diff(bare(want), bare(got)), "%s: it shows another tree than its manifest says", name)
		for i := range got.Entries {
			g := &got.Entries[i]
			if w, ok := want.Find(g.Path); ok && g.Type == snapshot.TypeFile && g.Size > 0 && g.Size < 1<<30 {
				same, err := pack.Same(t.Context(), domainKey, g, &snapshot.Entry{Type: w.Type, Size: w.Size, Chunks: w.Chunks})
				require.NoError(t, err)
				require.True(t, same, "%s: %q has other content", name, g.Path)
			}
		}
	})
}
