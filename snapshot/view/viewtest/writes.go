//go:build linux

package viewtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openIn opens a file of a view for f and closes it.
func (h *house) openIn(dir, name string, flags int, f func(*os.File)) {
	h.t.Helper()
	file, err := os.OpenFile(filepath.Join(dir, name), flags, 0o644)
	require.NoError(h.t, err)
	f(file)
	require.NoError(h.t, file.Close())
}

// writeAt overwrites a part of a file.
func (h *house) writeAt(dir, name, text string, off int64) {
	h.t.Helper()
	h.openIn(dir, name, os.O_WRONLY, func(f *os.File) {
		_, err := f.WriteAt([]byte(text), off)
		require.NoError(h.t, err)
	})
}

// each calls f for all names of a tree, the root included, what is in a directory
// before the directory.
func (h *house) each(dir string, f func(p string, isDir bool)) {
	h.t.Helper()
	type name struct {
		p     string
		isDir bool
	}
	var all []name
	require.NoError(h.t, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		all = append(all, name{p, e.IsDir()})
		return err
	}))
	for i := len(all) - 1; i >= 0; i-- {
		f(all[i].p, all[i].isDir)
	}
}

// pattern is n bytes that no two files share.
func pattern(n int, seed byte) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12)*31 + byte(i)*7 + seed
	}
	return string(b)
}

// writes are scenarios of the ways in which programs change files that they got
// from a job before them.
var writes = []scenario{
	{name: "overwrite, truncate, grow and punch", run: func(h *house) []*snap {
		big := pattern(5<<18, 1) // 1.25 MiB
		a := h.job(nil, func(dir string) {
			for _, n := range []string{"again", "short", "long", "middle", "hole", "keep"} {
				h.write(dir, n, big)
			}
			h.write(dir, "small", "0123456789")
		})
		b := h.job(a, func(dir string) {
			h.write(dir, "again", "all new") // O_TRUNC
			require.NoError(h.t, os.Truncate(filepath.Join(dir, "short"), 1<<20+1))
			require.NoError(h.t, os.Truncate(filepath.Join(dir, "long"), 6<<18))
			h.writeAt(dir, "middle", "middle", 1<<19-3)
			h.writeAt(dir, "small", "X", 5)
			h.openIn(dir, "hole", os.O_RDWR, func(f *os.File) {
				require.NoError(h.t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<19, 1<<18))
			})
		})
		c := h.job(b, func(dir string) {
			h.read(dir, "keep", big)
			h.read(dir, "small", "01234X6789")
			h.read(dir, "hole", big[:1<<19]+string(make([]byte, 1<<18))+big[3<<18:])
			h.read(dir, "long", big+string(make([]byte, 1<<18)))
			require.NoError(h.t, os.Truncate(filepath.Join(dir, "keep"), 0))
		})
		return []*snap{a, b, c}
	}},
	{name: "sizes around the blocks", run: func(h *house) []*snap {
		sizes := []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1}
		name := func(n int) string { return fmt.Sprintf("s%07d", n) }
		a := h.job(nil, func(dir string) {
			for i, n := range sizes {
				h.write(dir, name(n), pattern(n, byte(i)))
			}
		})
		b := h.job(a, func(dir string) {
			for i, n := range sizes {
				h.read(dir, name(n), pattern(n, byte(i)))
				h.openIn(dir, name(n), os.O_APPEND|os.O_WRONLY, func(f *os.File) {
					_, err := f.WriteString("tail")
					require.NoError(h.t, err)
				})
			}
		})
		c := h.job(b, func(dir string) {
			for i, n := range sizes {
				h.read(dir, name(n), pattern(n, byte(i))+"tail")
			}
		})
		return []*snap{a, b, c}
	}},
	{name: "written through a mapping", run: func(h *house) []*snap {
		text := pattern(2<<20+100, 3)
		a := h.job(nil, func(dir string) { h.write(dir, "large", text); h.write(dir, "little", text[:5000]) })
		b := h.job(a, func(dir string) {
			for name, off := range map[string]int{"large": 1 << 20, "little": 4096} {
				h.openIn(dir, name, os.O_RDWR, func(f *os.File) {
					fi, err := f.Stat()
					require.NoError(h.t, err)
					m, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
					require.NoError(h.t, err)
					require.Equal(h.t, text[:fi.Size()], string(m))
					copy(m[off:], "mapped")
					require.NoError(h.t, unix.Msync(m, unix.MS_SYNC))
					require.NoError(h.t, unix.Munmap(m))
				})
			}
			h.read(dir, "little", text[:4096]+"mapped"+text[4102:5000])
		})
		c := h.job(b, func(dir string) {
			h.read(dir, "large", text[:1<<20]+"mapped"+text[1<<20+6:])
			h.openIn(dir, "large", os.O_RDONLY, func(f *os.File) {
				m, err := unix.Mmap(int(f.Fd()), 0, len(text), unix.PROT_READ, unix.MAP_PRIVATE)
				require.NoError(h.t, err)
				require.Equal(h.t, "mapped", string(m[1<<20:1<<20+6]))
				require.NoError(h.t, unix.Munmap(m))
			})
		})
		return []*snap{a, b, c}
	}},
	{name: "files made without a name", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			for _, at := range []string{"", "a", "a/deep/er"} {
				h.tmpfile(filepath.Join(dir, at), "linked", "from O_TMPFILE in "+at)
			}
			// One that is never linked, and one that is deleted while it is open.
			f, err := os.OpenFile(filepath.Join(dir, "b"), unix.O_TMPFILE|os.O_RDWR, 0o600)
			if !errors.Is(err, unix.EOPNOTSUPP) {
				require.NoError(h.t, err)
				_, err = f.WriteString("nobody sees this")
				require.NoError(h.t, err)
				require.NoError(h.t, f.Close())
			}
			h.openIn(dir, "b/four", os.O_RDWR, func(f *os.File) {
				require.NoError(h.t, os.Remove(f.Name()))
				_, err := f.WriteAt([]byte("gone"), 0)
				require.NoError(h.t, err)
			})
		})
		return []*snap{a, b, h.job(b, func(dir string) { h.read(dir, "a/linked", "from O_TMPFILE in a") })}
	}},
	{name: "everything can be synced", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			for _, name := range []string{"", "a", "a/one", "b/four"} {
				f, err := os.Open(filepath.Join(dir, name))
				require.NoError(h.t, err)
				require.NoError(h.t, f.Sync(), "fsync of what was inherited: %q", name)
				require.NoError(h.t, f.Close())
			}
			h.openIn(dir, "a/new", os.O_CREATE|os.O_RDWR, func(f *os.File) {
				_, err := f.WriteString("durable")
				require.NoError(h.t, err)
				require.NoError(h.t, f.Sync())
				require.NoError(h.t, unix.Fdatasync(int(f.Fd())))
			})
			h.openIn(dir, "a/two", os.O_RDWR|os.O_SYNC, func(f *os.File) {
				_, err := f.WriteAt([]byte("S"), 0)
				require.NoError(h.t, err)
				require.NoError(h.t, unix.Syncfs(int(f.Fd())))
			})
		})
		return []*snap{a, b, h.job(b, func(dir string) { h.read(dir, "a/two", "Second") })}
	}},
	{name: "chmod and chown of all", run: func(h *house) []*snap {
		a := h.job(h.small(), func(dir string) {
			h.write(dir, "a/big", pattern(2<<20, 9))
			h.chmod(dir, "a/two", 0o755|os.ModeSetuid)
		})
		b := h.job(a, func(dir string) {
			h.each(dir, func(p string, isDir bool) {
				if fi, err := os.Lstat(p); err != nil || fi.Mode()&os.ModeSymlink != 0 {
					require.NoError(h.t, err)
				} else if isDir {
					require.NoError(h.t, os.Chmod(p, 0o775))
				} else {
					require.NoError(h.t, os.Chmod(p, 0o664))
				}
			})
		})
		c := h.job(b, func(dir string) {
			if os.Geteuid() == 0 {
				h.each(dir, func(p string, _ bool) { require.NoError(h.t, os.Lchown(p, 4321, 8765)) })
			}
			h.read(dir, "a/big", pattern(2<<20, 9))
		})
		d := h.job(c, func(dir string) { h.writeAt(dir, "a/big", "x", 1<<20); h.rm(dir, "a/two") })
		return []*snap{a, b, c, d}
	}},
	{name: "exchange, and renames over something", run: func(h *house) []*snap {
		a := h.small()
		exchange := func(dir, x, y string) {
			h.t.Helper()
			require.NoError(h.t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, x), unix.AT_FDCWD, filepath.Join(dir, y), unix.RENAME_EXCHANGE))
		}
		b := h.job(a, func(dir string) {
			exchange(dir, "a/one", "b/four")
			exchange(dir, "a", "b")
			exchange(dir, "link", "empty")
			err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(dir, "b"), unix.RENAME_NOREPLACE)
			require.ErrorIs(h.t, err, unix.EEXIST)
		})
		c := h.job(b, func(dir string) {
			h.read(dir, "a/four", "first")
			h.move(dir, "b/two", "b/one") // over a file
			h.rm(dir, "a/four")
			h.move(dir, "b/deep", "a")     // over a directory that is empty by now
			h.move(dir, "empty", "b/link") // a symlink by now
		})
		d := h.job(c, func(dir string) {
			h.read(dir, "a/er/three", "third")
			h.mkdir(dir, "b/full")
			h.write(dir, "b/full/x", "x")
			require.Error(h.t, rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")), "over a directory that is not empty")
		})
		return []*snap{a, b, c, d}
	}},
	{name: "hidden and found again at every level", run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			for _, n := range []string{"k", "k/l", "k/l/m", "k/l/m/n"} {
				h.write(dir, n+"/f", n)
			}
		})
		b := h.job(a, func(dir string) { h.rm(dir, "k/l"); h.write(dir, "k/l/new", "opaque") })
		c := h.job(b, func(dir string) { h.mkdir(dir, "k/l/m"); h.move(dir, "k", "kk") })
		d := h.job(c, func(dir string) {
			h.rm(dir, "kk/l")
			h.mkdir(dir, "kk/l/m/n")
			h.move(dir, "kk", "k")
			h.write(dir, "k/l/m/f", "again")
		})
		return []*snap{a, b, c, d}
	}},
	{name: "deep and wide", run: func(h *house) []*snap {
		deep := strings.TrimSuffix(strings.Repeat("d/", 150), "/")
		long := strings.Repeat(strings.Repeat("p", 100)+"/", 30) + "end" // a path of 3 KiB
		a := h.job(nil, func(dir string) {
			h.write(dir, "deep/"+deep+"/f", "far down")
			h.write(dir, long, "a long way")
			h.mkdir(dir, "wide")
			for i := range 500 {
				require.NoError(h.t, os.WriteFile(filepath.Join(dir, "wide", fmt.Sprintf("file-with-a-name-%d", i)), fmt.Append(nil, i), 0o644))
			}
		})
		b := h.job(a, func(dir string) {
			h.move(dir, "deep/d", "shallow")
			h.write(dir, "shallow/"+deep[4:]+"/g", "beside")
			for i := range 200 {
				h.rm(dir, fmt.Sprintf("wide/file-with-a-name-%d", 2*i))
			}
		})
		return []*snap{a, b}
	}},
	{name: "a default ACL goes on to what is made below", root: true, run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			h.mkdir(dir, "d/e")
			require.NoError(h.t, setxattr(filepath.Join(dir, "d/e"), "system.posix_acl_default", posixACL()))
		})
		b := h.job(a, func(dir string) {
			h.write(dir, "d/e/f/g", "inherits")
			h.move(dir, "d", "dd")
		})
		c := h.job(b, func(dir string) { h.write(dir, "dd/e/f/h", "so does this") })
		return []*snap{a, b, c}
	}},
	{name: "links of what is no file, and of large files", run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			h.mkdir(dir, "d")
			require.NoError(h.t, mkfifo(filepath.Join(dir, "fifo")))
			require.NoError(h.t, os.Link(filepath.Join(dir, "fifo"), filepath.Join(dir, "d/fifo")))
			h.write(dir, "large", pattern(1<<20+5, 4))
			require.NoError(h.t, os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "d/large")))
			h.time(dir, "large", time.Unix(-7, 77))
		})
		b := h.job(a, func(dir string) {
			h.move(dir, "d", "e")
			h.move(dir, "fifo", "e/fifo2")
		})
		c := h.job(b, func(dir string) { h.read(dir, "e/large", pattern(1<<20+5, 4)); h.rm(dir, "large") })
		return []*snap{a, b, c}
	}},
}

// tmpfile makes a file without a name in dir and then gives it one.
func (h *house) tmpfile(dir, name, text string) {
	h.t.Helper()
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o640)
	if errors.Is(err, unix.EOPNOTSUPP) { // overlays before Linux 6.1
		require.NoError(h.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
		return
	}
	require.NoError(h.t, err)
	_, err = f.WriteString(text)
	require.NoError(h.t, err)
	require.NoError(h.t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, filepath.Join(dir, name), unix.AT_SYMLINK_FOLLOW))
	require.NoError(h.t, f.Close())
}
