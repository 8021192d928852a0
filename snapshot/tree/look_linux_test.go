package tree

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/internal/testenv"
)

func writeNew(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(make([]byte, n))
	return err
}

// Look counts what Walk sees, and fails as Walk fails, whatever is wrong in however
// many places.
func TestLookIsAWalk(t *testing.T) {
	testenv.Require(t, testenv.Root)
	top := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		root := filepath.Join(top, fmt.Sprint(n))
		require.NoError(t, os.Mkdir(root, 0o755))
		paths := []string{"a", "a/b", "a/b/c", "a.d", "a/\xff\xff", "a/bb", "b", "b/\xff", "b/d", "c"}
		for i := range rapid.IntRange(0, 12).Draw(t, "entries") {
			p := filepath.Join(root, rapid.SampledFrom(paths).Draw(t, "path"))
			switch rapid.IntRange(0, 15).Draw(t, "what") {
			case 0, 1, 2, 3:
				_ = os.MkdirAll(p, 0o700) // not where a file is
			case 4:
				_ = writeNew(p, i) // and never into a fifo
			case 5:
				_ = os.Symlink("to", p)
			case 6:
				_ = unix.Mkfifo(p, 0o600)
			case 7:
				_ = unix.Mknod(p, unix.S_IFCHR, 0)
			case 8:
				_ = unix.Mknod(p, unix.S_IFCHR, int(unix.Mkdev(1, 3)))
			case 9:
				_ = unix.Lsetxattr(p, "trusted.overlay.opaque", []byte("y"), 0)
			case 10:
				_ = unix.Lsetxattr(p, "trusted.foo", []byte("y"), 0)
			case 11:
				_ = unix.Lsetxattr(p, "security.capability", make([]byte, 20), 0)
			case 12:
				_ = unix.Lsetxattr(p, "user."+strings.Repeat("n", rapid.IntRange(1, 200).Draw(t, "name")), nil, 0)
			case 13: // ext4 keeps it, a manifest doesn't
				_ = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1 << 33}, {Sec: 10_000_000_000}}, unix.AT_SYMLINK_NOFOLLOW)
			case 14:
				_ = unix.Mknod(p, unix.S_IFBLK, int(unix.Mkdev(7, 3)))
			case 15:
				_ = os.Link(p, filepath.Join(root, fmt.Sprint("hard", i)))
			}
		}
		var want int64
		linked := map[uint64]bool{}
		werr := Walk(t.Context(), root, ScanOptions{Owners: true}, func(it *Item) error {
			if it.Inode.Nlink < 2 || !linked[it.Inode.Ino] {
				want += it.Entry.Size
			}
			linked[it.Inode.Ino] = true
			return nil
		})
		got, lerr := Look(t.Context(), root)
		if werr != nil {
			require.EqualError(t, lerr, werr.Error())
			return
		}
		require.NoError(t, lerr)
		require.Equal(t, want, got)
	})
}

// Names and paths that no manifest holds are refused, of directories too.
func TestLookRefusesLongPaths(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(root+"/a", nil, 0o600))
	// Deeper than any path may be, made from within.
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	for range 20 {
		require.NoError(t, unix.Mkdirat(fd, strings.Repeat("d", 250), 0o755))
		next, err := unix.Openat(fd, strings.Repeat("d", 250), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	require.NoError(t, unix.Close(fd))
	werr := Walk(t.Context(), root, ScanOptions{}, func(*Item) error { return nil })
	require.ErrorContains(t, werr, "path of")
	_, err = Look(t.Context(), root)
	require.EqualError(t, err, werr.Error())
}

// Attributes in such numbers that one call does not tell their names.
func TestLookCountsAttributes(t *testing.T) {
	testenv.Require(t, testenv.Root)
	root := testenv.Disk(t, testenv.XFS, 320<<20)
	require.NoError(t, os.WriteFile(root+"/a", []byte("12345"), 0o600))
	for i := range 256 {
		require.NoError(t, unix.Setxattr(root+"/a", fmt.Sprintf("user.%03d", i), []byte("v"), 0))
	}
	n, err := Look(t.Context(), root)
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
	require.NoError(t, unix.Setxattr(root+"/a", "user.one-more", []byte("v"), 0))
	werr := Walk(t.Context(), root, ScanOptions{}, func(*Item) error { return nil })
	require.ErrorContains(t, werr, "257 attributes")
	_, err = Look(t.Context(), root)
	require.EqualError(t, err, werr.Error())
}

// Directories of more names than one call lists, whatever the file system says of where
// the last one is.
func TestLookListsAll(t *testing.T) {
	for fs, root := range map[string]string{
		"here": t.TempDir(), testenv.XFS: testenv.Disk(t, testenv.XFS, 320<<20), testenv.Btrfs: testenv.Disk(t, testenv.Btrfs, 128<<20),
	} {
		want := int64(0)
		for i := range 3000 {
			require.NoError(t, writeNew(fmt.Sprintf("%s/%d-%s", root, i, strings.Repeat("x", i%100)), 3))
			if want += 3; i < 3 || i > 400 && i%700 == 0 {
				got, err := Look(t.Context(), root)
				require.NoError(t, err)
				require.Equal(t, want, got, fs)
			}
		}
		got, err := Look(t.Context(), root)
		require.NoError(t, err)
		require.Equal(t, want, got, fs)
	}
}

func TestLookEnds(t *testing.T) {
	_, err := Look(t.Context(), filepath.Join(t.TempDir(), "gone"))
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	root := t.TempDir()
	for i := range 50 {
		require.NoError(t, os.MkdirAll(fmt.Sprintf("%s/%d/x", root, i), 0o755))
	}
	cancel()
	_, err = Look(ctx, root)
	require.ErrorIs(t, err, ctx.Err())
}
