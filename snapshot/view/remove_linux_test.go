package view

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

func newLayout(t testing.TB) layout {
	l, err := openLayout(filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	return l
}

// deep makes directories n deep below dir, by descriptors: no path is that long.
func deep(t testing.TB, dir string, n int) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	for range n {
		require.NoError(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	require.NoError(t, unix.Close(fd))
}

// TestRemoveAnything: no job can make a tree that stays.
func TestRemoveAnything(t *testing.T) {
	chattr := func(t *testing.T, flag string, p ...string) {
		testenv.Require(t, testenv.Root)
		out, err := exec.Command("chattr", append([]string{flag}, p...)...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	cases := map[string]func(t *testing.T, dir string){
		"nothing":     func(*testing.T, string) {},
		"20,000 deep": func(t *testing.T, dir string) { deep(t, dir, 20_000) },
		"many names": func(t *testing.T, dir string) {
			for i := range 20_000 {
				require.NoError(t, os.Symlink("x", filepath.Join(dir, fmt.Sprint(i))))
			}
		},
		"odd names": func(t *testing.T, dir string) {
			for _, n := range []string{"\xff\xfe", "new\nline", strings.Repeat("n", 255), " ", "-rf", "*"} {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, n, n, n), 0o755))
			}
		},
		"chmod 000": func(t *testing.T, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "a/b/f"), nil, 0))
			for _, d := range []string{"a/b/c", "a/b", "a", ""} {
				require.NoError(t, os.Chmod(filepath.Join(dir, d), 0))
			}
		},
		"chattr +i and +a": func(t *testing.T, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "c/d/e"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "a/f"), nil, 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "c/d/f"), nil, 0o644))
			chattr(t, "+i", filepath.Join(dir, "a/f"), filepath.Join(dir, "c/d/e"), filepath.Join(dir, "c/d"))
			chattr(t, "+a", filepath.Join(dir, "a/b"), filepath.Join(dir, "a"), filepath.Join(dir, "c/d/f"))
			chattr(t, "+i", dir)
		},
		"special files": func(t *testing.T, dir string) {
			require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0))
			require.NoError(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK, 0))
			if os.Geteuid() == 0 {
				require.NoError(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR, 1<<8|3))
				require.NoError(t, unix.Mknod(filepath.Join(dir, "whiteout"), unix.S_IFCHR, 0))
			}
		},
		"links out": func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("/", filepath.Join(dir, "root")))
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
			require.NoError(t, os.Symlink("../../../..", filepath.Join(dir, "d/up")))
		},
	}
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLayout(t)
			dir := filepath.Join(l.abs(viewsDir), "victim")
			require.NoError(t, os.Mkdir(dir, 0o755))
			make(t, dir)
			require.NoError(t, l.remove(t.Context(), dir))
			require.NoDirExists(t, dir)
			left, err := readNames(l.abs(trashDir))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// TestRemoveAfterKilledOnes: what removals that were killed left in the trash, in any
// order, is not in the way of the next.
func TestRemoveAfterKilledOnes(t *testing.T) {
	l := newLayout(t)
	trash := l.abs(trashDir)
	for i := range 40 { // a directory has its own order of names
		for _, n := range []string{"", "~1", "~1~1", "~2"} {
			require.NoError(t, os.MkdirAll(filepath.Join(trash, fmt.Sprintf("v%d.0%s", i, n), "d", "deep"), 0o755))
		}
		require.NoError(t, os.WriteFile(filepath.Join(trash, fmt.Sprintf("v%d.0~3", i)), nil, 0o644))
	}
	require.NoError(t, l.emptyTrash(t.Context()))
	left, err := os.ReadDir(trash)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestRemoveStopsAtMounts: another file system inside is an error, not deleted.
func TestRemoveStopsAtMounts(t *testing.T) {
	testenv.Require(t, testenv.Root)
	l := newLayout(t)
	dir := filepath.Join(l.abs(viewsDir), "victim")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "m"), 0o755))
	require.NoError(t, unix.Mount("tmpfs", filepath.Join(dir, "m"), "tmpfs", 0, ""))
	canary := filepath.Join(dir, "m", "canary")
	require.NoError(t, os.WriteFile(canary, []byte("alive"), 0o644))
	err := l.remove(t.Context(), dir)
	require.Error(t, err)
	mounts, merr := mountsAt(l.root)
	require.NoError(t, merr)
	require.Len(t, mounts, 1)
	require.FileExists(t, filepath.Join(mounts[0].point, "canary"))
	require.NoError(t, unix.Unmount(mounts[0].point, 0))
	require.NoError(t, l.emptyTrash(t.Context()))
}

// TestRemoveWhileSwapped: somebody who kept a descriptor swaps a directory with a
// link to the outside as fast as he can. Nothing outside may go.
func TestRemoveWhileSwapped(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	l := newLayout(t)
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.MkdirAll(filepath.Join(outside, "deep"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "canary"), nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "deep", "canary"), nil, 0o644))
	swaps := int64(0)
	for range rounds {
		dir := filepath.Join(l.abs(viewsDir), "victim")
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "d", "deep"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "d", "deep", "canary"), nil, 0o644))
		require.NoError(t, os.Symlink(outside, filepath.Join(dir, "l")))
		for i := range 50 {
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644))
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		var stop atomic.Bool
		done := make(chan int64)
		go func() {
			n := int64(0)
			for !stop.Load() {
				if unix.Renameat2(fd, "d", fd, "l", unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
			done <- n
		}()
		_ = l.remove(t.Context(), dir) // may be refused in the middle of a swap
		stop.Store(true)
		swaps += <-done
		require.NoError(t, unix.Close(fd))
		require.NoError(t, l.emptyTrash(t.Context()))
		require.FileExists(t, filepath.Join(outside, "canary"))
		require.FileExists(t, filepath.Join(outside, "deep", "canary"))
	}
	t.Logf("%d rounds, %d swaps", rounds, swaps)
}
