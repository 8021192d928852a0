package tree

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/internal/testenv"
)

// seen is what both walks say of an entry.
func seen(it *Item) string {
	e := &it.Entry
	s := fmt.Sprintf("%q %v %o %d:%d %d %d %+v", e.Path, e.Type, e.Mode, e.UID, e.GID, e.MTime, e.Size, it.Inode)
	for _, x := range it.Special {
		s += " " + x.Name
	}
	for _, x := range e.Xattrs {
		s += " " + x.Name
	}
	return s
}

func writeNew(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(make([]byte, n))
	return err
}

// Look sees what Walk sees, and fails as Walk fails, whatever is wrong in however many
// places.
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
			switch rapid.IntRange(0, 11).Draw(t, "what") {
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
				_ = os.Link(p, filepath.Join(root, fmt.Sprint("hard", i)))
			}
		}
		var walked, looked []string
		above := map[string]bool{}
		werr := Walk(t.Context(), root, ScanOptions{Owners: true}, func(it *Item) error {
			walked = append(walked, seen(it))
			return nil
		})
		var mu sync.Mutex
		lerr := Look(t.Context(), root, ScanOptions{Owners: true}, func(it *Item, dir string) string {
			mu.Lock()
			defer mu.Unlock()
			looked = append(looked, seen(it))
			above[it.Entry.Path] = true
			want := filepath.Dir(it.Entry.Path)
			if want == "." {
				want = ""
			}
			require.Equal(t, want, dir)
			require.True(t, above[dir], "a directory comes first")
			return it.Entry.Path
		})
		if werr != nil {
			require.EqualError(t, lerr, werr.Error())
			require.Subset(t, looked, walked)
			return
		}
		require.NoError(t, lerr)
		require.ElementsMatch(t, walked, looked)
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
	require.EqualError(t, Look(t.Context(), root, ScanOptions{}, func(_ *Item, _ int) int { return 0 }), werr.Error())
}

func TestLookEnds(t *testing.T) {
	require.Error(t, Look(t.Context(), filepath.Join(t.TempDir(), "gone"), ScanOptions{}, func(_ *Item, _ int) int { return 0 }))
	ctx, cancel := context.WithCancel(t.Context())
	root := t.TempDir()
	for i := range 50 {
		require.NoError(t, os.MkdirAll(fmt.Sprintf("%s/%d/x", root, i), 0o755))
	}
	require.ErrorIs(t, Look(ctx, root, ScanOptions{}, func(_ *Item, _ int) int { cancel(); return 0 }), ctx.Err())
	require.Error(t, ctx.Err())
}
