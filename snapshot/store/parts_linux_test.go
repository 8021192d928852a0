package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// disturb changes a tree in n places: everything that can become something else does.
func disturb(t *testing.T, dir string, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		m := scanned(t, dir)
		pick := func() string { return filepath.Join(dir, m.Entries[rng.IntN(len(m.Entries))].Path) }
		a := pick()
		fi, err := os.Lstat(a)
		require.NoError(t, err)
		fresh := func(p string) string { return filepath.Join(filepath.Dir(p), fmt.Sprintf("n%06d", rng.IntN(1e6))) }
		switch rng.IntN(9) {
		case 0:
			if a != dir {
				require.NoError(t, os.RemoveAll(a))
			}
		case 1:
			if a != dir {
				require.NoError(t, os.RemoveAll(a))
				write(t, a, "instead")
			}
		case 2:
			if fi.Mode().IsRegular() {
				require.NoError(t, os.Link(a, fresh(a)))
			}
		case 3:
			if fi.Mode().IsRegular() {
				write(t, a, fmt.Sprint("other ", rng.Uint64()))
			}
		case 4:
			if a != dir && !fi.IsDir() {
				require.NoError(t, os.Remove(a))
				write(t, filepath.Join(a, "below"), "a directory now")
			}
		case 5:
			if a != dir {
				require.NoError(t, os.Rename(a, fresh(a)))
			}
		case 6:
			if fi.IsDir() || fi.Mode().IsRegular() {
				require.NoError(t, os.Chmod(a, 0o700|os.FileMode(rng.IntN(64))))
			}
		default:
			if fi.IsDir() {
				write(t, fresh(filepath.Join(a, "x")), fmt.Sprint("new ", rng.Uint64()))
			}
		}
	}
}

// What goes through in parts is what goes through as one: the changes that are stored,
// what comes back, what differs, and what is found to be in order.
func TestParts(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	all := []int{1, 3, 20, 0}
	if testing.Short() {
		all = all[1:2]
	}
	for _, fewer := range all {
		t.Run(fmt.Sprint(fewer), func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			b.fewer, b.Store.o.MaxChain = fewer, 4
			dir := filepath.Join(t.TempDir(), "d")
			thicket(t, dir)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), noise(5<<20, 1), 0o600))
			rng := rand.New(rand.NewPCG(uint64(fewer), 7))
			last := b.create(dir, "")
			b.back(last.ID, dir)
			for range 6 {
				disturb(t, dir, rng, 6)
				c := b.create(dir, last.ID)
				was, is := b.read(last.ID), b.read(c.ID)
				want := tree.Diff(was, is)
				if c.WireBase == "" {
					want = tree.Diff(nil, is)
				}
				ix, err := b.readIndex(c.Index)
				require.NoError(t, err)
				require.Subset(t, paths(ix.Changes), paths(want)) // what was read and is the same is listed, too
				made, err := tree.Apply(map[bool]*snapshot.Manifest{false: was}[c.WireBase == ""], ix.Changes)
				require.NoError(t, err)
				require.Equal(t, c.Manifest, digestOf(t, made))
				b.trees.drop(c.ID)
				b.trees.drop(last.ID)
				b.back(c.ID, dir)
				require.NoError(t, b.Verify(t.Context(), c.ID))
				differ := 0
				require.NoError(t, b.Compare(t.Context(), last.ID, c.ID, func(Difference) error { differ++; return nil }))
				require.Positive(t, differ)
				last = c
			}
		})
	}
}

// read is the tree of a snapshot as its manifest has it.
func (b *bench) read(id snapshot.ID) *snapshot.Manifest {
	b.t.Helper()
	in, err := b.Lookup(id)
	require.NoError(b.t, err)
	m, err := b.readManifest(in.Manifest)
	require.NoError(b.t, err)
	require.NoError(b.t, tree.Validate(m))
	return m
}

func paths(changes []snapshot.Change) (out []string) {
	for i := range changes {
		out = append(out, fmt.Sprint(changes[i].Entry.Path, changes[i].Delete))
	}
	return out
}

// What is unpacked in parts shows what it should, and says where its files are.
func TestUnpackedInParts(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	b := newBench(t, view.NameErofs)
	b.fewer = 5
	dir := filepath.Join(t.TempDir(), "d")
	thicket(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), noise(5<<20, 1), 0o600))
	c := b.create(dir, "")
	was := b.read(c.ID)
	require.NoError(t, b.Materialise(t.Context(), c.ID, nil))
	require.Equal(t, c.Manifest, b.requireTree(c.ID))
	m, err := b.Tree(t.Context(), c.ID)
	require.NoError(t, err)
	for i := range m.Entries {
		e := &m.Entries[i]
		require.True(t, e.Equal(&was.Entries[i]), e.Path)
		require.Equal(t, e.Type == snapshot.TypeFile && e.Size > 0, e.Source != "", e.Path)
	}
	b.back(c.ID, dir)
	require.NoError(t, b.Verify(t.Context(), c.ID))
	in, err := b.Lookup(c.ID)
	require.NoError(t, err)
	require.Equal(t, in.StoredBytes+m.Bytes(), in.DiskBytes)
}
