//go:build linux

package viewtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scenario is a few jobs that stand on each other. It returns what they made.
type scenario struct {
	name string
	root bool // needs uid 0
	run  func(h *house) []*snap
}

func (h *house) write(dir, name, text string) {
	h.t.Helper()
	p := filepath.Join(dir, name)
	require.NoError(h.t, os.MkdirAll(filepath.Dir(p), 0o755))
	require.NoError(h.t, os.WriteFile(p, []byte(text), 0o644))
}

func (h *house) mkdir(dir, name string) {
	h.t.Helper()
	require.NoError(h.t, os.MkdirAll(filepath.Join(dir, name), 0o755))
}

func (h *house) read(dir, name, want string) {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(h.t, err)
	if len(want) > 1<<10 { // nobody wants to read them
		require.True(h.t, want == string(b), "%s is not what it should be", name)
		return
	}
	require.Equal(h.t, want, string(b))
}

func (h *house) move(dir, from, to string) {
	h.t.Helper()
	require.NoError(h.t, rename(filepath.Join(dir, from), filepath.Join(dir, to)))
}

func (h *house) rm(dir, name string) {
	h.t.Helper()
	require.NoError(h.t, os.RemoveAll(filepath.Join(dir, name)))
}

func (h *house) chmod(dir, name string, mode os.FileMode) {
	h.t.Helper()
	require.NoError(h.t, os.Chmod(filepath.Join(dir, name), mode))
}

func (h *house) time(dir, name string, at time.Time) {
	h.t.Helper()
	require.NoError(h.t, setTime(filepath.Join(dir, name), at))
}

// small is a tree to stand on.
func (h *house) small() *snap {
	h.t.Helper()
	return h.job(nil, func(dir string) {
		h.write(dir, "a/one", "first")
		h.write(dir, "a/two", "second")
		h.write(dir, "a/deep/er/three", "third")
		h.write(dir, "b/four", "fourth")
		h.mkdir(dir, "empty")
		require.NoError(h.t, os.Symlink("a/one", filepath.Join(dir, "link")))
	})
}

func nothing(string) {}

func mode(t testing.TB, p string) os.FileMode {
	t.Helper()
	fi, err := os.Stat(p)
	require.NoError(t, err)
	return fi.Mode().Perm()
}

var scenarios = []scenario{
	{name: "an empty view", run: func(h *house) []*snap {
		a := h.job(nil, nothing)
		return []*snap{a, h.job(a, nothing)}
	}},
	{name: "every type of entry", run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			h.write(dir, "file", "text")
			h.write(dir, "nothing", "")
			h.mkdir(dir, "dir")
			require.NoError(h.t, os.Symlink("../outside/\xff", filepath.Join(dir, "dangling")))
			require.NoError(h.t, mkfifo(filepath.Join(dir, "fifo")))
			require.NoError(h.t, mksocket(filepath.Join(dir, "socket")))
			h.chmod(dir, "file", 0o755|os.ModeSetuid)
			h.chmod(dir, "dir", 0o777|os.ModeSticky|os.ModeSetgid)
		})
		b := h.job(a, func(dir string) {
			h.rm(dir, "fifo")
			h.rm(dir, "socket")
			h.write(dir, "socket", "a file now")
		})
		return []*snap{a, b}
	}},
	{name: "times in nanoseconds and before 1970", run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			h.write(dir, "d/old", "x")
			h.write(dir, "d/new", "y")
			require.NoError(h.t, os.Symlink("old", filepath.Join(dir, "d/link")))
			h.time(dir, "d/old", time.Unix(-86_400*365, 1))
			h.time(dir, "d/new", time.Unix(1_400_000_000, 999_999_999))
			h.time(dir, "d/link", time.Unix(-1, 999_999_999))
			h.time(dir, "d", time.Unix(0, 7))
			h.time(dir, "", time.Unix(12, 34))
		})
		b := h.job(a, func(dir string) { h.time(dir, "d/new", time.Unix(5, 5)) })
		return []*snap{a, b}
	}},
	{name: "sparse files stay sparse", run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			f, err := os.Create(filepath.Join(dir, "sparse"))
			require.NoError(h.t, err)
			require.NoError(h.t, f.Truncate(16<<20))
			_, err = f.WriteAt([]byte("in the middle"), 5<<20)
			require.NoError(h.t, err)
			require.NoError(h.t, f.Close())
			h.write(dir, "other", "x")
		})
		b := h.job(a, func(dir string) {
			require.Less(h.t, blocks(h.t, filepath.Join(dir, "sparse")), int64(4096))
			h.write(dir, "other", "y")
		})
		return []*snap{a, b}
	}},
	{name: "attributes and ACLs", run: func(h *house) []*snap {
		acl := posixACL()
		a := h.job(nil, func(dir string) {
			h.write(dir, "f", "x")
			h.mkdir(dir, "d")
			require.NoError(h.t, setxattr(filepath.Join(dir, "f"), "user.roost", []byte{0, 1, 255}))
			require.NoError(h.t, setxattr(filepath.Join(dir, "f"), "user.none", nil))
			require.NoError(h.t, setxattr(filepath.Join(dir, "d"), "user.dir", []byte("d")))
			require.NoError(h.t, setxattr(filepath.Join(dir, ""), "user.root", []byte("r")))
			require.NoError(h.t, setxattr(filepath.Join(dir, "f"), "system.posix_acl_access", acl))
			require.NoError(h.t, setxattr(filepath.Join(dir, "d"), "system.posix_acl_default", acl))
			require.NoError(h.t, mkfifo(filepath.Join(dir, "fifo")))
			require.NoError(h.t, mksocket(filepath.Join(dir, "socket")))
			require.NoError(h.t, setxattr(filepath.Join(dir, "fifo"), "system.posix_acl_access", acl))
			require.NoError(h.t, setxattr(filepath.Join(dir, "socket"), "system.posix_acl_access", acl))
		})
		b := h.job(a, func(dir string) {
			require.NoError(h.t, setxattr(filepath.Join(dir, "f"), "user.roost", []byte("changed")))
		})
		return []*snap{a, b, h.job(b, func(dir string) { h.chmod(dir, "fifo", 0o600) })}
	}},
	{name: "names of any bytes and of 255", run: func(h *house) []*snap {
		long := strings.Repeat("n", 255)
		a := h.job(nil, func(dir string) {
			for _, n := range []string{"\xff\xfe", "new\nline", "quote\"'\\", " ", "-rf", "a,b:c=d", "#tag", "ünï", long, "...", "u" + string(h.id())} {
				h.write(dir, n, n)
			}
			h.write(dir, "\x01/\x7f/"+long+"/x", "deep")
		})
		b := h.job(a, func(dir string) {
			h.rm(dir, "\xff\xfe")
			h.move(dir, "\x01", "\x02,:\\")
			h.write(dir, long, "other")
		})
		return []*snap{a, b, h.job(b, func(dir string) { h.move(dir, "\x02,:\\/\x7f", "a,b:c=d.moved") })}
	}},
	{name: "hard links across directories", run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			h.write(dir, "x/first", "linked")
			h.mkdir(dir, "y")
			h.mkdir(dir, "a")
			require.NoError(h.t, os.Link(filepath.Join(dir, "x/first"), filepath.Join(dir, "y/second")))
			require.NoError(h.t, os.Link(filepath.Join(dir, "x/first"), filepath.Join(dir, "a/third")))
			h.write(dir, "pair1", "two")
			require.NoError(h.t, os.Link(filepath.Join(dir, "pair1"), filepath.Join(dir, "pair2")))
		})
		b := h.job(a, func(dir string) {
			h.rm(dir, "a/third") // the group's first name
			h.move(dir, "y", "z")
			h.rm(dir, "pair2")
		})
		c := h.job(b, func(dir string) { h.rm(dir, "x/first") })
		return []*snap{a, b, c}
	}},
	{name: "a new hard link made by a job", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			h.write(dir, "new/n", "n")
			require.NoError(h.t, os.Link(filepath.Join(dir, "new/n"), filepath.Join(dir, "a/n")))
			require.NoError(h.t, os.Link(filepath.Join(dir, "a/one"), filepath.Join(dir, "b/one")))
		})
		c := h.job(b, func(dir string) {
			h.rm(dir, "new/n")
			require.NoError(h.t, os.Link(filepath.Join(dir, "b/four"), filepath.Join(dir, "a/four")))
			h.chmod(dir, "a/four", 0o600)
		})
		return []*snap{a, b, c}
	}},
	{name: "renames of directories", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) { h.move(dir, "a", "z") })
		c := h.job(b, func(dir string) { h.move(dir, "z/deep", "b/deep") })
		d := h.job(c, func(dir string) {
			h.move(dir, "z", "y")
			h.write(dir, "y/one", "changed after the move")
			h.mkdir(dir, "z")
			h.write(dir, "z/one", "another")
		})
		return []*snap{a, b, c, d}
	}},
	{name: "a renamed directory in a renamed directory", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			h.move(dir, "a", "z")
			h.move(dir, "z/deep", "z/shallow")
			h.move(dir, "z/shallow/er", "er")
			h.move(dir, "er", "b/er")
			h.move(dir, "b", "empty/b")
		})
		c := h.job(b, func(dir string) {
			h.move(dir, "empty/b/er", "z/shallow/er2")
			h.move(dir, "z", "a")
			h.move(dir, "empty", "full")
		})
		return []*snap{a, b, c}
	}},
	{name: "two directories change places", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			h.move(dir, "a", "tmp")
			h.move(dir, "b", "a")
			h.move(dir, "tmp", "b")
		})
		return []*snap{a, b, h.job(b, func(dir string) { h.write(dir, "b/one", "x"); h.rm(dir, "a/four") })}
	}},
	{name: "renames of files", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			h.move(dir, "a/one", "a/uno")
			h.move(dir, "a/two", "b/due")
			h.move(dir, "link", "b/link")
		})
		c := h.job(b, func(dir string) {
			h.move(dir, "b/due", "a/one")
			h.chmod(dir, "a/one", 0o400)
			h.move(dir, "a", "c")
		})
		return []*snap{a, b, c}
	}},
	{name: "delete, and make again", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			h.rm(dir, "a")
			h.mkdir(dir, "a")
			h.write(dir, "a/fresh", "only this")
			h.rm(dir, "b/four")
			h.rm(dir, "empty")
		})
		c := h.job(b, func(dir string) {
			h.write(dir, "b/four", "back")
			h.write(dir, "empty/not", "any more")
			h.rm(dir, "a")
		})
		d := h.job(c, func(dir string) { h.write(dir, "a/deep/er/three", "again") })
		return []*snap{a, b, c, d}
	}},
	{name: "directory to file to directory", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) { h.rm(dir, "a"); h.write(dir, "a", "a file") })
		c := h.job(b, func(dir string) {
			h.rm(dir, "a")
			h.write(dir, "a/one", "a directory")
			h.rm(dir, "link")
			h.mkdir(dir, "link")
		})
		d := h.job(c, func(dir string) {
			h.rm(dir, "link")
			require.NoError(h.t, os.Symlink("a", filepath.Join(dir, "link")))
			h.rm(dir, "b")
			require.NoError(h.t, mkfifo(filepath.Join(dir, "b")))
		})
		return []*snap{a, b, c, d}
	}},
	{name: "modes and times only", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			h.chmod(dir, "a/one", 0o600)
			h.chmod(dir, "a/deep", 0o700)
			h.time(dir, "a/two", time.Unix(77, 77))
			h.chmod(dir, "", 0o750)
		})
		c := h.job(b, func(dir string) { h.chmod(dir, "a/one", 0o755); h.read(dir, "a/one", "first") })
		return []*snap{a, b, c}
	}},
	{name: "owners only", root: true, run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			require.NoError(h.t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
				require.NoError(h.t, err)
				return os.Lchown(p, 1234, 5678)
			}))
		})
		return []*snap{a, b, h.job(b, func(dir string) { h.read(dir, "a/deep/er/three", "third") })}
	}},
	{name: "append and write in place", run: func(h *house) []*snap {
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
		a := h.job(nil, func(dir string) {
			h.write(dir, "log", "line 1\n")
			h.write(dir, "big", string(big))
		})
		b := h.job(a, func(dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(h.t, err)
			_, err = f.WriteString("line 2\n")
			require.NoError(h.t, err)
			require.NoError(h.t, f.Close())
			f, err = os.OpenFile(filepath.Join(dir, "big"), os.O_WRONLY, 0)
			require.NoError(h.t, err)
			_, err = f.WriteAt([]byte("x"), 1<<20)
			require.NoError(h.t, err)
			require.NoError(h.t, f.Close())
		})
		c := h.job(b, func(dir string) { h.read(dir, "log", "line 1\nline 2\n") })
		return []*snap{a, b, c}
	}},
	{name: "what one can't read", run: func(h *house) []*snap {
		a := h.job(nil, func(dir string) {
			h.write(dir, "locked/in/f", "x")
			h.write(dir, "secret", "s")
		})
		b := h.job(a, func(dir string) {
			require.NoError(h.t, os.Link(filepath.Join(dir, "secret"), filepath.Join(dir, "locked/secret2")))
			h.chmod(dir, "secret", 0)
			h.chmod(dir, "locked/in", 0)
			h.chmod(dir, "locked", 0o111)
		})
		for p, mode := range map[string]uint32{"secret": 0, "locked/secret2": 0, "locked/in": 0, "locked": 0o111} {
			e, ok := b.tree.Find(p)
			require.True(h.t, ok)
			require.Equal(h.t, mode, e.Mode, p)
		}
		c := h.job(b, func(dir string) {
			h.chmod(dir, "locked", 0o755)
			h.chmod(dir, "locked/in", 0o755)
			h.read(dir, "locked/in/f", "x")
			h.rm(dir, "locked/secret2")
			h.chmod(dir, "secret", 0o600)
			h.read(dir, "secret", "s")
			h.chmod(dir, "", 0o555)
		})
		d := h.job(c, func(dir string) {
			require.Equal(h.t, os.FileMode(0o555), mode(h.t, dir))
			h.chmod(dir, "", 0o755)
		})
		return []*snap{b, c, d}
	}},
	{name: "a chain of five", run: func(h *house) []*snap {
		s := h.small()
		out := []*snap{s}
		for i := range 5 {
			n := string(rune('0' + i))
			s = h.job(s, func(dir string) {
				h.write(dir, "a/one", "round "+n)
				h.write(dir, "new/"+n, n)
				if i > 0 {
					h.rm(dir, "new/"+string(rune('0'+i-1)))
				}
				h.move(dir, "a/deep", "a/tmp")
				h.move(dir, "a/tmp", "a/deep")
			})
			out = append(out, s)
		}
		return out
	}},
	{name: "fan-in of two", run: func(h *house) []*snap {
		a := h.small()
		b := h.job(a, func(dir string) {
			h.write(dir, "out/b", "from b")
			h.rm(dir, "a/two")
			h.write(dir, "b/four", "changed by b")
		})
		c := h.job(a, func(dir string) {
			h.write(dir, "out/c", "from c")
			h.write(dir, "out/sub/c", "from c, deeper")
			require.NoError(h.t, os.Link(filepath.Join(dir, "out/c"), filepath.Join(dir, "out/c2")))
			require.NoError(h.t, mkfifo(filepath.Join(dir, "out/fifo")))
			require.NoError(h.t, os.Symlink("c", filepath.Join(dir, "out/link")))
			h.chmod(dir, "a/deep/er/three", 0o600) // its content is in a layer of both
			h.move(dir, "a/one", "out/one")
			h.rm(dir, "empty")
		})
		m := h.merge(a, func(dir string) {
			h.read(dir, "out/b", "from b")
			h.read(dir, "out/c", "from c")
			h.read(dir, "out/c2", "from c")
			h.read(dir, "a/deep/er/three", "third")
			h.read(dir, "out/one", "first")
			h.chmod(dir, "out/sub/c", 0o600)
			h.move(dir, "out/sub", "out/bus")
			h.write(dir, "result", "done")
		}, b, c)
		n := h.job(m, func(dir string) {
			h.read(dir, "out/bus/c", "from c, deeper")
			h.read(dir, "out/c2", "from c")
			h.move(dir, "out", "in")
			h.rm(dir, "in/b")
		})
		return []*snap{a, b, c, m, n, h.job(n, func(dir string) { h.read(dir, "in/bus/c", "from c, deeper") })}
	}},
	{name: "fan-in of three, then of those", run: func(h *house) []*snap {
		a := h.small()
		kid := func(base *snap, n string) *snap {
			return h.job(base, func(dir string) {
				h.write(dir, "out/"+n, "from "+n)
				h.write(dir, n+"/deep/"+n, "deep from "+n)
			})
		}
		b, c, d := kid(a, "kb"), kid(a, "kc"), kid(a, "kd")
		m := h.merge(a, func(dir string) {
			for _, n := range []string{"kb", "kc", "kd"} {
				h.read(dir, "out/"+n, "from "+n)
			}
			h.write(dir, "m", "m")
		}, b, c, d)
		e := kid(c, "ke") // has a layer of m's in its own chain
		x := h.merge(c, func(dir string) { h.read(dir, "out/ke", "from ke"); h.read(dir, "kd/deep/kd", "deep from kd") }, m, e)
		y := h.merge(c, func(dir string) { h.read(dir, "kb/deep/kb", "deep from kb") }, e, m)
		return []*snap{a, b, c, d, m, e, x, y}
	}},
	{name: "siblings do not see each other", run: func(h *house) []*snap {
		a := h.small()
		v1, from, _ := h.prepare(a, nil)
		v2, _, _ := h.prepare(a, nil)
		h.write(v1.Target, "a/one", "one's")
		h.write(v2.Target, "a/one", "two's")
		h.write(v1.Target, "only1", "x")
		h.rm(v2.Target, "b")
		h.read(v1.Target, "a/one", "one's")
		h.read(v1.Target, "b/four", "fourth")
		_, err := os.Lstat(filepath.Join(v2.Target, "only1"))
		require.ErrorIs(h.t, err, os.ErrNotExist)
		s1 := h.seal(v1, a, from)
		h.write(v2.Target, "late", "while one is a layer already")
		v3, _, _ := h.prepare(s1, nil)
		h.write(v3.Target, "a/one", "three's")
		h.read(v2.Target, "a/one", "two's")
		s2 := h.seal(v2, a, from)
		return []*snap{s1, s2, h.seal(v3, s1, s1.tree)}
	}},
}
