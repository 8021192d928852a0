package tree

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

func TestScanEverything(t *testing.T) {
	root := t.TempDir()
	must := require.New(t)
	at := func(p string) string { return filepath.Join(root, p) }
	bad := "b\xff\xfe\n"
	long := strings.Repeat("n", 255)
	must.NoError(os.Mkdir(at("d"), 0o2750))
	must.NoError(unix.Chmod(at("d"), 0o2750))
	must.NoError(os.WriteFile(at(bad), []byte("1"), 0o644))
	must.NoError(os.WriteFile(at(long), nil, 0o000))
	must.NoError(os.WriteFile(at("d/suid"), nil, 0o644))
	must.NoError(unix.Chmod(at("d/suid"), 0o6711))
	must.NoError(unix.Mkfifo(at("d/fifo"), 0o622))
	must.NoError(unix.Mknod(at("d/sock"), unix.S_IFSOCK|0o600, 0))
	must.NoError(os.Link(at(bad), at("d/z")))
	must.NoError(os.Link(at(bad), at("a")))
	must.NoError(os.Symlink("../../\xffetc", at("d/link")))
	must.NoError(os.Link(at("d/link"), at("d/link2"))) // a hard-linked symlink
	f, err := os.Create(at("sparse"))
	must.NoError(err)
	must.NoError(f.Truncate(1 << 40))
	must.NoError(f.Close())
	old := time.Unix(-1000, 999_999_999)
	must.NoError(os.Chtimes(at("sparse"), old, old))
	outside := filepath.Join(t.TempDir(), "outside")
	must.NoError(os.WriteFile(outside, nil, 0o644))
	if err := os.Link(outside, at("half")); err != nil {
		t.Log("no link to outside:", err)
	}

	m, err := Scan(t.Context(), root, ScanOptions{})
	must.NoError(err)
	must.NoError(Validate(m))
	get := func(p string) snapshot.Entry {
		e, ok := m.Find(p)
		must.True(ok, "%q", p)
		return *e
	}
	must.EqualValues(0o2750, get("d").Mode)
	must.EqualValues(0o6711, get("d/suid").Mode)
	must.Equal(snapshot.TypeFifo, get("d/fifo").Type)
	must.Equal(snapshot.TypeSocket, get("d/sock").Type)
	for _, p := range []string{"a", bad, "d/z"} {
		must.Equal("a", get(p).Link, "%q", p)
	}
	must.Equal("../../\xffetc", get("d/link").Target)
	must.Empty(get("d/link2").Link)
	must.Equal(int64(1)<<40, get("sparse").Size)
	must.Equal(old.UnixNano(), get("sparse").MTime)
	must.Empty(get("half").Link, "its other name is outside")
	must.EqualValues(0, get(long).Mode)
}

func TestScanXattrs(t *testing.T) {
	for _, at := range []bool{true, false} {
		t.Run(fmt.Sprintf("listxattrat=%v", at), func(t *testing.T) {
			root := t.TempDir()
			must := require.New(t)
			f := filepath.Join(root, "f")
			must.NoError(os.WriteFile(f, nil, 0o644))
			if err := unix.Setxattr(f, "user.b", []byte{0, 1}, 0); err != nil {
				t.Skip("no user xattrs here:", err)
			}
			big := bytes.Repeat([]byte("v"), 3000)
			must.NoError(unix.Setxattr(f, "user.a", big, 0))
			must.NoError(unix.Setxattr(f, "user.empty", nil, 0))
			for i := range 40 { // more names than the first buffer holds
				must.NoError(unix.Setxattr(root, fmt.Sprintf("user.a-rather-long-name-%03d", i), []byte("x"), 0))
			}
			tr, err := openTree(root)
			must.NoError(err)
			defer tr.close()
			if at && !tr.xattrs.at {
				t.Skip("the kernel has no listxattrat")
			}
			tr.xattrs.at = at
			it, err := tr.lstat("f", ScanOptions{})
			must.NoError(err)
			must.Equal([]snapshot.Xattr{{Name: "user.a", Value: big}, {Name: "user.b", Value: []byte{0, 1}}, {Name: "user.empty", Value: []byte{}}}, it.Entry.Xattrs)
			it, err = tr.lstat("", ScanOptions{})
			must.NoError(err)
			must.Len(it.Entry.Xattrs, 40)
		})
	}
}

// TestScanRefuses covers what a snapshot can't keep, and that the first path in
// order is named whatever directory is read first.
func TestScanRefuses(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for _, c := range []struct {
		name, what string
		make       func(path string) error
	}{
		{"char device", "character device", func(p string) error { return unix.Mknod(p, unix.S_IFCHR, int(unix.Mkdev(1, 3))) }},
		{"whiteout", "character device", func(p string) error { return unix.Mknod(p, unix.S_IFCHR, 0) }},
		{"block device", "block device", func(p string) error { return unix.Mknod(p, unix.S_IFBLK, int(unix.Mkdev(8, 0))) }},
		{"file capability", "file capability", func(p string) error {
			if err := os.WriteFile(p, nil, 0o755); err != nil {
				return err
			}
			v2 := make([]byte, 20)
			v2[3], v2[4] = 2, 1
			return unix.Setxattr(p, "security.capability", v2, 0)
		}},
		{"trusted", "trusted.foo attribute", func(p string) error {
			return errors2(os.WriteFile(p, nil, 0o644), func() error { return unix.Setxattr(p, "trusted.foo", []byte("x"), 0) })
		}},
		{"trusted on a symlink", "trusted.foo attribute", func(p string) error {
			return errors2(os.Symlink("x", p), func() error { return unix.Lsetxattr(p, "trusted.foo", []byte("x"), 0) })
		}},
		{"overlay's", "trusted.overlay.opaque attribute", func(p string) error {
			return errors2(os.Mkdir(p, 0o755), func() error { return unix.Setxattr(p, "trusted.overlay.opaque", []byte("y"), 0) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for _, d := range []string{"a", "b/c", "z"} {
				require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
			}
			require.NoError(t, c.make(filepath.Join(root, "z/last")))
			require.NoError(t, c.make(filepath.Join(root, "b/c/first")))
			for range 10 {
				_, err := Scan(t.Context(), root, ScanOptions{})
				var u *snapshot.UnsupportedError
				require.ErrorAs(t, err, &u)
				require.Equal(t, "b/c/first", u.Path)
				require.Equal(t, c.what, u.What)
			}
		})
	}
}

func errors2(err error, then func() error) error {
	if err != nil {
		return err
	}
	return then()
}

func TestLstatShowsOverlayItsOwn(t *testing.T) {
	testenv.Require(t, testenv.Root)
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "d"), 0o755))
	require.NoError(t, unix.Mknod(filepath.Join(root, "d/gone"), unix.S_IFCHR, 0))
	require.NoError(t, unix.Setxattr(filepath.Join(root, "d"), "trusted.overlay.opaque", []byte("y"), 0))
	_, ino, _, err := Lstat(root, "d/gone", ScanOptions{})
	require.NoError(t, err)
	require.True(t, ino.Char)
	e, _, special, err := Lstat(root, "d", ScanOptions{})
	require.NoError(t, err)
	require.Equal(t, snapshot.TypeDir, e.Type)
	require.Equal(t, []snapshot.Xattr{{Name: "trusted.overlay.opaque", Value: []byte("y")}}, special)
	var seen []string
	require.NoError(t, Walk(t.Context(), root, ScanOptions{}, func(it *Item) error {
		seen = append(seen, it.Entry.Path)
		return nil
	}))
	require.Equal(t, []string{"", "d", "d/gone"}, seen)
}

// TestScanDeep reads paths that no single system call takes, and refuses those
// that no manifest takes.
func TestScanDeep(t *testing.T) {
	root := t.TempDir()
	mk := func(levels int, name string) {
		fd, err := openDir(unix.AT_FDCWD, root, 0)
		require.NoError(t, err)
		for range levels {
			if err := unix.Mkdirat(fd, name, 0o755); err != nil {
				require.ErrorIs(t, err, unix.EEXIST)
			}
			next, err := openDir(fd, name, unix.O_NOFOLLOW)
			require.NoError(t, err)
			require.NoError(t, unix.Close(fd))
			fd = next
		}
		require.NoError(t, unix.Close(fd))
	}
	mk(2048, "d") // 4,095 bytes
	m, err := Scan(t.Context(), root, ScanOptions{})
	require.NoError(t, err)
	require.NoError(t, Validate(m))
	require.Len(t, m.Entries, 2049)
	last := m.Entries[2048].Path
	require.Len(t, last, 4095)
	e, _, _, err := Lstat(root, last, ScanOptions{})
	require.NoError(t, err)
	require.Equal(t, last, e.Path)

	mk(2100, "d")
	_, err = Scan(t.Context(), root, ScanOptions{})
	var u *snapshot.UnsupportedError
	require.ErrorAs(t, err, &u)
	require.Contains(t, u.What, "limit is 4096")
}

// TestOpenSteps holds the way without openat2 to the same answers.
func TestOpenSteps(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	require.NoError(t, os.Symlink("a", filepath.Join(root, "l")))
	top, err := openDir(unix.AT_FDCWD, root, 0)
	require.NoError(t, err)
	defer unix.Close(top) //nolint:errcheck // a test
	for rel, ok := range map[string]bool{"a/b": true, "a": true, ".": true, "l": false, "l/b": false, "..": false, "a/..": false, "a/../..": false, "x": false} {
		for name, open := range map[string]func(int, string) (int, error){
			"openat2": func(fd int, rel string) (int, error) { return openBeneath(fd, rel, 0) }, "steps": openSteps,
		} {
			if name == "openat2" && rel == "a/.." {
				continue // openat2 allows .. that stays beneath; our callers never say it
			}
			fd, err := open(top, rel)
			require.Equal(t, ok, err == nil, "%s %s: %v", name, rel, err)
			if err == nil {
				require.NoError(t, unix.Close(fd))
			}
		}
	}
}

// TestScanDoesNotOpenFiles would hang on the fifo or fail on the file if anything
// but directories were opened, and follows no symlink out.
func TestScanWithoutRights(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "secret"), []byte("x"), 0))
	require.NoError(t, os.Symlink(root, filepath.Join(root, "loop")))
	done := make(chan error, 1)
	go func() {
		_, err := Scan(t.Context(), root, ScanOptions{})
		done <- err
	}()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(2 * time.Minute):
		t.Fatal("the scan hangs")
	}
}

// TestScanLeavesAccessTimes: with relatime the first read of a directory since it changed
// would be noted, and each note is an inode to write.
func TestScanLeavesAccessTimes(t *testing.T) {
	root := t.TempDir()
	dirs := []string{root, filepath.Join(root, "a"), filepath.Join(root, "a", "b")}
	require.NoError(t, os.MkdirAll(dirs[2], 0o755))
	long := time.Unix(1_000_000_000, 0)
	for _, d := range dirs {
		require.NoError(t, os.Chtimes(d, long, long))
	}
	_, err := Scan(t.Context(), root, ScanOptions{})
	require.NoError(t, err)
	for _, d := range dirs {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(d, &st))
		require.Equal(t, long.Unix(), st.Atim.Sec, d)
	}
}

// What a scan takes, a manifest may have: a file of another time is refused by both, and
// not kept to be called corrupt later. A tmpfs has times that ext4 and XFS have not.
func TestScanTimes(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	shm := t.TempDir()
	require.NoError(t, unix.Mount("none", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(shm, 0)) })
	for _, dir := range []string{t.TempDir(), filepath.Join(shm, "tree")} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		path := filepath.Join(dir, "f")
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		refused := 0
		for _, at := range []time.Time{
			time.Unix(-1<<33, 0), time.Unix(-1<<31-1, 999_999_999), time.Unix(-1<<31, 0), time.Unix(-1<<31, 1), time.Unix(1<<31, 1),
			time.Unix(1<<33, 0), time.Unix(9223372035, 0), time.Unix(9223372035, 1), time.Unix(9223372036, 0), time.Unix(1<<33+1<<31, 0),
		} {
			ts := unix.Timespec{Sec: at.Unix(), Nsec: int64(at.Nanosecond())}
			require.NoError(t, unix.UtimesNano(path, []unix.Timespec{ts, ts}))
			_, lookErr := Look(t.Context(), dir)
			m, err := Scan(t.Context(), dir, ScanOptions{})
			if err != nil {
				var odd *snapshot.UnsupportedError
				require.ErrorAs(t, err, &odd, "%s", at)
				require.ErrorAs(t, lookErr, &odd, "%s", at)
				refused++
				continue
			}
			require.NoError(t, lookErr, "%s", at)
			require.NoError(t, Validate(m), "%s", at)
		}
		require.GreaterOrEqual(t, refused, 2)
	}
}
