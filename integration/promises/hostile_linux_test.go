package promises

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestHostileTrees makes trees that are hard to keep, two layers each, as a job
// would: once in a view and once in a plain directory. What is packed, brought to
// another store and shown there must be the plain directory, and when the layers
// are removed nothing may be left of them, immutable files included.
func TestHostileTrees(t *testing.T) {
	n := count(6, 45, 500)
	_, seed := seeded(t)
	drivers(t, func(t *testing.T, driver string) {
		t.Parallel()
		began := time.Now()
		dir := tempDir(t)
		here, there := newLab(t, filepath.Join(dir, "here"), driver), newLab(t, filepath.Join(dir, "there"), driver)
		each := (n + len(working(t)) - 1) / len(working(t))
		entries := 0
		for i := range each {
			entries += hostile(t, here, there, filepath.Join(dir, "plain"), seed+uint64(i))
		}
		record(t, began, "hostile trees", each, "%d entries packed, restored elsewhere and deleted exactly", entries)
	})
}

// hostile does one tree and returns how many entries its two layers had.
func hostile(t *testing.T, here, there *lab, plain string, seed uint64) int {
	require.NoError(t, os.Mkdir(plain, 0o755))
	require.NoError(t, os.MkdirAll(here.dir, 0o755))
	grow := func(dir string, seed uint64, steps int) {
		require.NoError(t, garden(dir, seed, steps, true))
	}
	one := here.job(func(dir string) { grow(dir, seed, 60) })
	grow(plain, seed, 60)
	two := here.job(func(dir string) { grow(dir, seed+1_000_000, 25) }, one)
	grow(plain, seed+1_000_000, 25)
	same := func(l *lab, id snapshot.ID) {
		t.Helper()
		l.shown(id, func(dir string) {
			diff, err := treecheck.Compare(plain, dir)
			require.NoError(t, err)
			require.Empty(t, diff, "seed %d", seed)
		})
	}
	same(here, two)
	entries := 0
	for _, in := range here.packed(one, two) {
		entries += int(in.Entries)
		spec := here.upload(in)
		require.NoError(t, there.s.Import(t.Context(), *spec, here.far.open, &view.Meter{}), "seed %d", seed)
		require.NoError(t, there.s.Verify(t.Context(), in.ID), "seed %d", seed)
	}
	same(there, two)

	// The last job leaves what can't be deleted.
	three := there.job(func(dir string) {
		grow(dir, seed+2_000_000, 10)
		lockAway(t, dir)
	}, two)
	for _, l := range []*lab{here, there} {
		for _, id := range []snapshot.ID{three, two, one} {
			require.NoError(t, l.s.Drop(t.Context(), id), "seed %d", seed)
		}
		for _, d := range []string{"views", "trash", "indexes", "manifests"} {
			left, err := os.ReadDir(filepath.Join(l.dir, "store", d))
			require.NoError(t, err)
			require.Empty(t, left, "%s, seed %d", d, seed)
		}
	}
	require.NoError(t, os.RemoveAll(plain))
	return entries
}

// lockAway takes away what a removal needs: rights, and by flags of the file system
// the removal itself. Flags that a driver's file system does not have are left out.
func lockAway(t *testing.T, dir string) {
	d := filepath.Join(dir, "locked")
	require.NoError(t, os.MkdirAll(filepath.Join(d, "in"), 0o755))
	for i, flag := range []uint32{unix.STATX_ATTR_IMMUTABLE, unix.STATX_ATTR_APPEND} {
		for _, p := range []string{filepath.Join(d, string(rune('a'+i))), filepath.Join(d, "in", string(rune('a'+i)))} {
			require.NoError(t, os.WriteFile(p, []byte("x"), 0o600))
			setFlag(p, flag)
		}
	}
	require.NoError(t, os.Chmod(filepath.Join(d, "in"), 0))
	setFlag(filepath.Join(d, "in"), unix.STATX_ATTR_APPEND)
}

// setFlag is chattr; the flags have the same values there.
func setFlag(p string, flag uint32) {
	f, err := os.Open(p)
	if err != nil {
		return
	}
	defer f.Close()
	if old, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(old|flag))
	}
}
