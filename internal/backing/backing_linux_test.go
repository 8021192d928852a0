package backing

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

// small is a store directory whose backing takes up little of the disk.
func small(t *testing.T) Options {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Loop, "mkfs.xfs", "xfs_growfs")
	o := Options{Dir: filepath.Join(t.TempDir(), "store"), Size: MinSize, Sparse: true}
	t.Cleanup(func() {
		require.NoError(t, Release(context.Background(), o.Dir, ""))
		noLoops(t, o)
	})
	return o
}

// noLoops is for what must have no loop device on its files.
func noLoops(t *testing.T, o Options) {
	t.Helper()
	require.Empty(t, testenv.Loops(t, filepath.Dir(o.Dir)), "a loop device is left")
}

func ensure(t *testing.T, o Options) Status {
	t.Helper()
	st, err := Ensure(t.Context(), o)
	require.NoError(t, err)
	return st
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

func get(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	return string(b)
}

// room is the size of the file system at dir.
func room(t *testing.T, dir string) int64 {
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &fs))
	return int64(fs.Blocks) * fs.Bsize
}

func TestMadeOnceAndKept(t *testing.T) {
	o := small(t)
	st := ensure(t, o)
	require.True(t, st.Made)
	require.Equal(t, int64(MinSize), st.Size)
	fi, err := os.Stat(ImageOf(o.Dir))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode().Perm(), "jobs must not read it")

	// Files are cloned on it, which is what it is for.
	put(t, o.Dir, "a", strings.Repeat("x", 8192))
	a, err := os.Open(filepath.Join(o.Dir, "a"))
	require.NoError(t, err)
	b, err := os.Create(filepath.Join(o.Dir, "b"))
	require.NoError(t, err)
	require.NoError(t, unix.IoctlFileClone(int(b.Fd()), int(a.Fd())))
	require.NoError(t, errors.Join(a.Close(), b.Close()))

	again := ensure(t, o)
	require.False(t, again.Made)
	require.Equal(t, st.Device, again.Device)

	require.NoError(t, Release(t.Context(), o.Dir, ""))
	noLoops(t, o)
	require.NoError(t, Release(t.Context(), o.Dir, ""), "Release is idempotent")
	require.NoFileExists(t, filepath.Join(o.Dir, "a"))
	require.False(t, ensure(t, o).Made, "mounted again, not made")
	require.Len(t, get(t, o.Dir, "b"), 8192)
}

// Views of the copying drivers lie on the mount itself.
func TestMountOptions(t *testing.T) {
	o := small(t)
	ensure(t, o)
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(o.Dir, &fs))
	for _, flag := range []int64{unix.ST_NOSUID, unix.ST_NODEV, unix.ST_NOATIME} {
		require.NotZero(t, fs.Flags&flag, "flag %#x", flag)
	}
}

func TestSpaceIsReserved(t *testing.T) {
	o := small(t)
	o.Sparse = false
	ensure(t, o)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(ImageOf(o.Dir), &st))
	require.GreaterOrEqual(t, st.Blocks*512, int64(MinSize))
}

func TestGrows(t *testing.T) {
	o := small(t)
	ensure(t, o)
	put(t, o.Dir, "kept", "k")
	before := room(t, o.Dir)
	const more = 96 << 20
	o.Size += more
	st := ensure(t, o) // while it is mounted
	require.True(t, st.Grown)
	require.GreaterOrEqual(t, room(t, o.Dir)-before, int64(more-more/8))

	require.NoError(t, Release(t.Context(), o.Dir, ""))
	before += more
	o.Size += more
	require.True(t, ensure(t, o).Grown) // from a file that was not mounted
	require.GreaterOrEqual(t, room(t, o.Dir)-before, int64(more-more/4))
	require.Equal(t, "k", get(t, o.Dir, "kept"))
	require.False(t, ensure(t, o).Grown, "once")

	size := o.Size
	o.Size = MinSize
	require.Equal(t, size, ensure(t, o).Size, "it never shrinks")
}

// Whatever has data is neither formatted nor hidden.
func TestForeign(t *testing.T) {
	refused := func(t *testing.T, o Options) {
		t.Helper()
		_, err := Ensure(t.Context(), o)
		require.ErrorIs(t, err, ErrForeign)
		noLoops(t, o)
	}
	for name, text := range map[string]string{"a file with data": "precious", "an empty file": "", "a damaged superblock": "XFSB" + strings.Repeat("\xff", 4096)} {
		t.Run(name, func(t *testing.T) {
			o := small(t)
			put(t, filepath.Dir(o.Dir), "store.xfs", text)
			refused(t, o)
			require.Equal(t, text, get(t, filepath.Dir(o.Dir), "store.xfs"))
		})
	}
	t.Run("a directory with files", func(t *testing.T) {
		o := small(t)
		require.NoError(t, os.Mkdir(o.Dir, 0o700))
		put(t, o.Dir, "store.db", "precious")
		refused(t, o)
		require.Equal(t, "precious", get(t, o.Dir, "store.db"))
		require.NoFileExists(t, ImageOf(o.Dir))
	})
	t.Run("a mount of another file system", func(t *testing.T) {
		o := small(t)
		require.NoError(t, os.Mkdir(o.Dir, 0o700))
		require.NoError(t, unix.Mount("tmpfs", o.Dir, "tmpfs", 0, "size=1m"))
		defer func() { require.NoError(t, unix.Unmount(o.Dir, 0)) }()
		refused(t, o)
		put(t, filepath.Dir(o.Dir), "store.xfs", "")
		require.ErrorIs(t, Release(t.Context(), o.Dir, ""), ErrForeign, "nor unmounted")
	})
	t.Run("another loop", func(t *testing.T) {
		o := small(t)
		ensure(t, o)
		other := o
		other.Image = filepath.Join(filepath.Dir(o.Dir), "other")
		put(t, filepath.Dir(o.Dir), "other", "x")
		_, err := Ensure(t.Context(), other)
		require.ErrorIs(t, err, ErrForeign)
	})
	t.Run("a link", func(t *testing.T) {
		o := small(t)
		put(t, filepath.Dir(o.Dir), "x", "precious")
		require.NoError(t, os.Symlink("x", ImageOf(o.Dir)))
		_, err := Ensure(t.Context(), o)
		require.Error(t, err)
		require.Equal(t, "precious", get(t, filepath.Dir(o.Dir), "x"))
	})
}

func TestNoTools(t *testing.T) {
	o := small(t)
	t.Setenv("PATH", t.TempDir())
	_, err := Ensure(t.Context(), o)
	require.ErrorIs(t, err, ErrTool)
	require.ErrorContains(t, err, "xfsprogs")
	require.ErrorIs(t, Check(), ErrTool)
	require.NoFileExists(t, ImageOf(o.Dir))
}

func TestTooSmall(t *testing.T) {
	_, err := Ensure(t.Context(), Options{Dir: "/nowhere/store", Size: 1 << 20})
	require.ErrorContains(t, err, "too few")
}

// TestAtOnce: agents that start together make one image and mount it once.
func TestAtOnce(t *testing.T) {
	o := small(t)
	var wg sync.WaitGroup
	made, device := make([]bool, 4), make([]string, 4)
	for i := range 4 {
		wg.Go(func() {
			st, err := Ensure(t.Context(), o)
			if err != nil {
				t.Error(err)
			}
			made[i], device[i] = st.Made, st.Device
		})
	}
	wg.Wait()
	n := 0
	for i := range made {
		require.Equal(t, device[0], device[i])
		if made[i] {
			n++
		}
	}
	require.Equal(t, 1, n)
	require.NoError(t, unix.Unmount(o.Dir, 0))
	_, root, err := mountAt(o.Dir)
	require.NoError(t, err)
	require.False(t, root, "mounted twice")
}

// A loop that another mount keeps is found and used: two devices on one file would
// disagree about it.
func TestLoopInUseElsewhere(t *testing.T) {
	o := small(t)
	st := ensure(t, o)
	put(t, o.Dir, "f", "x")
	other := t.TempDir()
	out, err := exec.Command("mount", "--bind", o.Dir, other).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, unix.Unmount(o.Dir, 0))
	require.Equal(t, st.Device, ensure(t, o).Device)
	require.Equal(t, "x", get(t, o.Dir, "f"))
	require.NoError(t, unix.Unmount(other, 0))
}
