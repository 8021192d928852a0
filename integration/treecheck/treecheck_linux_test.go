package treecheck

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pair is a tree with one of each and its copy.
func pair(t *testing.T) (a, b string) {
	dir := t.TempDir()
	a, b = filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must := require.New(t)
	must.NoError(os.MkdirAll(filepath.Join(a, "d/e"), 0o755))
	must.NoError(os.WriteFile(filepath.Join(a, "d/f"), []byte("text"), 0o644))
	must.NoError(os.WriteFile(filepath.Join(a, "b\xff"), []byte(strings.Repeat("x", 3<<20)), 0o755))
	must.NoError(unix.Chmod(filepath.Join(a, "b\xff"), 0o2755))
	must.NoError(os.Link(filepath.Join(a, "d/f"), filepath.Join(a, "g")))
	must.NoError(os.Symlink("d/f", filepath.Join(a, "l")))
	must.NoError(unix.Mkfifo(filepath.Join(a, "p"), 0o600))
	must.NoError(unix.Mknod(filepath.Join(a, "s"), unix.S_IFSOCK|0o600, 0))
	f, err := os.Create(filepath.Join(a, "sparse"))
	must.NoError(err)
	_, err = f.WriteAt([]byte("end"), 1<<30)
	must.NoError(err)
	must.NoError(f.Truncate(1 << 40))
	must.NoError(f.Close())
	_ = unix.Setxattr(filepath.Join(a, "d"), "user.k", []byte("v"), 0)
	out, err := exec.Command("cp", "-a", "--sparse=always", a, b).CombinedOutput()
	must.NoError(err, string(out))
	return a, b
}

func TestCompare(t *testing.T) {
	old := time.Unix(1, 1)
	for _, c := range []struct {
		name string
		do   func(at func(string) string) error
		want []string // parts of the lines, in order; times of touched directories are put back
	}{
		{"a copy", func(func(string) string) error { return nil }, nil},
		{"a name more", func(at func(string) string) error { return os.Mkdir(at("d/new"), 0o755) }, []string{`"d/new": only in`}},
		{"a name less", func(at func(string) string) error { return os.Remove(at("d/e")) }, []string{`"d/e": only in`}},
		{"mode", func(at func(string) string) error { return unix.Chmod(at("b\xff"), 0o755) }, []string{`"b\xff": mode 02755, 0755`}},
		{"a nanosecond", func(at func(string) string) error {
			fi, err := os.Lstat(at("p"))
			if err != nil {
				return err
			}
			return os.Chtimes(at("p"), old, fi.ModTime().Add(1))
		}, []string{`"p": mtime`}},
		{"a directory's time", func(at func(string) string) error { return os.Chtimes(at("d/e"), old, old) }, []string{`"d/e": mtime`}},
		{"the root's time", func(at func(string) string) error { return os.Chtimes(at("."), old, old) }, []string{`".": mtime`}},
		{"a symlink's time", func(at func(string) string) error {
			ts := []unix.Timespec{{Sec: 1}, {Sec: 1}}
			return unix.UtimesNanoAt(unix.AT_FDCWD, at("l"), ts, unix.AT_SYMLINK_NOFOLLOW)
		}, []string{`"l": mtime`}},
		{"one byte", func(at func(string) string) error { return overwrite(at("b\xff"), 2<<20, "y") }, []string{`"b\xff": content`}},
		{"one byte of a sparse file", func(at func(string) string) error { return overwrite(at("sparse"), 1<<39, "y") }, []string{`"sparse": content`}},
		{"zeros for a hole", func(at func(string) string) error { return overwrite(at("sparse"), 1<<39, "\x00") }, nil},
		{"the size of a hole", func(at func(string) string) error { return resize(at("sparse"), 1<<41) }, []string{`"sparse": size`}},
		{"a target", func(at func(string) string) error {
			fi, err := os.Lstat(at("l"))
			if err != nil {
				return err
			}
			if err := os.Remove(at("l")); err != nil {
				return err
			}
			if err := os.Symlink("d/x", at("l")); err != nil {
				return err
			}
			ts := unix.NsecToTimespec(fi.ModTime().UnixNano())
			return unix.UtimesNanoAt(unix.AT_FDCWD, at("l"), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		}, []string{`"l": target "d/f", "d/x"`}},
		{"a type", func(at func(string) string) error {
			if err := os.Remove(at("p")); err != nil {
				return err
			}
			return os.WriteFile(at("p"), nil, 0o600)
		}, []string{`"p": fifo, file`}},
		{"a hard link cut", func(at func(string) string) error {
			out, err := exec.Command("sh", "-c", `cp -p "$1" "$1.x" && mv "$1.x" "$1"`, "sh", at("g")).CombinedOutput()
			if err != nil {
				t.Log(string(out))
			}
			return err
		}, []string{`"d/f": linked to "d/f", ""`, `"g": linked to "d/f", ""`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			times := map[string]time.Time{}
			for _, d := range []string{"", "d", "d/e"} {
				fi, err := os.Lstat(filepath.Join(b, d))
				require.NoError(t, err)
				times[d] = fi.ModTime()
			}
			sparse, err := os.Lstat(filepath.Join(b, "sparse"))
			require.NoError(t, err)
			big, err := os.Lstat(filepath.Join(b, "b\xff"))
			require.NoError(t, err)
			require.NoError(t, c.do(func(p string) string { return filepath.Join(b, p) }))
			require.NoError(t, os.Chtimes(filepath.Join(b, "sparse"), old, sparse.ModTime()))
			require.NoError(t, os.Chtimes(filepath.Join(b, "b\xff"), old, big.ModTime()))
			if !strings.Contains(c.name, "directory's") && !strings.Contains(c.name, "root's") {
				for d, at := range times {
					if _, err := os.Lstat(filepath.Join(b, d)); err == nil {
						require.NoError(t, os.Chtimes(filepath.Join(b, d), old, at))
					}
				}
			}
			got, err := Compare(a, b)
			require.NoError(t, err)
			require.Len(t, got, len(c.want), "%q", got)
			for i, w := range c.want {
				require.Contains(t, got[i], w)
			}
		})
	}
}

func TestCompareAttributes(t *testing.T) {
	a, b := pair(t)
	d := filepath.Join(b, "d")
	if err := unix.Setxattr(d, "user.k", []byte("w"), 0); err != nil {
		t.Skip("no user attributes here:", err)
	}
	require.NoError(t, unix.Setxattr(d, "user.n", nil, 0))
	got, err := Compare(a, b)
	require.NoError(t, err)
	require.Equal(t, []string{`"d": attribute user.k "v", "w"`, `"d": attribute user.n absent, ""`}, got)
	got, err = Options{Ignore: func(p string) bool { return p == "d" }}.Compare(a, b)
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestCompareOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	a, b := pair(t)
	require.NoError(t, os.Lchown(filepath.Join(b, "l"), 7, 8))
	got, err := Compare(a, b)
	require.NoError(t, err)
	require.Equal(t, []string{`"l": uid 0, 7`, `"l": gid 0, 8`}, got)
	got, err = Options{IgnoreOwners: true}.Compare(a, b)
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestCompareErrors(t *testing.T) {
	a, b := pair(t)
	_, err := Compare(a, b+"/absent")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Compare(a+"/absent", b)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func overwrite(path string, off int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(text), off); err != nil {
		return err
	}
	return f.Close()
}

func resize(path string, size int64) error { return os.Truncate(path, size) }
