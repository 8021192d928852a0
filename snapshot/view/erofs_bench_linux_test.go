package view

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// manyChanges is a tree of n small files in directories of 100.
func manyChanges(n int) []snapshot.Change {
	ch := []snapshot.Change{{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755}}}
	for i := range n {
		if i%100 == 0 {
			ch = append(ch, snapshot.Change{Entry: snapshot.Entry{Path: fmt.Sprintf("d%06d", i/100), Type: snapshot.TypeDir, Mode: 0o755}})
		}
		ch = append(ch, snapshot.Change{Entry: snapshot.Entry{
			Path: fmt.Sprintf("d%06d/f%06d", i/100, i), Type: snapshot.TypeFile, Mode: 0o644,
			Size: int64(100 + i*7919%10_000), MTime: int64(i) * 1e9,
		}})
	}
	return ch
}

// unpackMany stores n small files with d, whose content comes in pieces of a few
// goroutines as pack.Extract hands them out.
func unpackMany(b testing.TB, d Driver, ch []snapshot.Change) *Layer {
	content := make([]byte, 10_100)
	for i := range content {
		content[i] = byte(i)
	}
	l, err := d.Unpack(b.Context(), newID(b), nil, ch, func(_ context.Context, write WriteFunc) error {
		const frame = 200 // about 1 MiB
		next := make(chan int, 4)
		done := make(chan error, 2)
		for range 2 {
			go func() {
				var err error
				for at := range next {
					for i := at; i < min(at+frame, len(ch)) && err == nil; i++ {
						if e := &ch[i].Entry; e.Type == snapshot.TypeFile {
							err = write(i, 0, content[:e.Size])
						}
					}
				}
				done <- err
			}()
		}
		for at := 0; at < len(ch); at += frame {
			next <- at
		}
		close(next)
		if err := <-done; err != nil {
			return err
		}
		return <-done
	}, nil)
	require.NoError(b, err)
	return l
}

// BenchmarkUnpack stores 30,000 small files, 153 MB, and syncs them.
func BenchmarkUnpack(b *testing.B) {
	ch := manyChanges(30_000)
	e := newErofsHost(b, Options{})
	o := newHost(b, Options{})
	for name, d := range map[string]Driver{"erofs": e.e, "overlay": o.d} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				l := unpackMany(b, d, ch)
				b.StopTimer()
				require.NoError(b, d.Remove(b.Context(), l))
				b.StartTimer()
			}
		})
	}
}

// BenchmarkImage makes the image of 100,000 files: of one bundle, and of as many
// files of a job.
func BenchmarkImage(b *testing.B) {
	h := newErofsHost(b, Options{})
	ch := manyChanges(100_000)
	bundle := unpackMany(b, h.e, ch)
	h.e.Locate(bundle, ch)
	bm, err := tree.Apply(nil, ch)
	require.NoError(b, err)
	v := h.prepare(nil, nil)
	h.files(v.Target, "d", 100_000)
	require.NoError(b, h.d.Seal(b.Context(), v))
	vm := h.tree(&v.Layer, nil)
	done := h.image(&v.Layer, nil, vm)
	other := newID(b)
	require.NoError(b, os.MkdirAll(h.d.dir(other), 0o700))
	for _, c := range []struct {
		name    string
		l, base *Layer
		m       *snapshot.Manifest
	}{
		{"bundle", bundle, nil, bm},
		{"bundle, with a base", bundle, h.image(bundle, nil, bm), bm},
		{"own files", &v.Layer, nil, vm},
		{"files of another layer", &Layer{ID: other, Dir: part(other, upperPrefix)}, done, vm},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				h.image(c.l, c.base, c.m)
			}
		})
	}
	require.NoError(b, os.RemoveAll(h.d.dir(other)))
}

// BenchmarkPrepareImage is Prepare on an image: for the first time, and while it
// is hot.
func BenchmarkPrepareImage(b *testing.B) {
	h := newErofsHost(b, Options{})
	ch := manyChanges(100_000)
	l := unpackMany(b, h.e, ch)
	h.e.Locate(l, ch)
	m, err := tree.Apply(nil, ch)
	require.NoError(b, err)
	l = h.image(l, nil, m)
	for _, hot := range []bool{true, false} {
		b.Run(fmt.Sprintf("hot=%t", hot), func(b *testing.B) {
			for b.Loop() {
				v := h.prepare(l, nil)
				b.StopTimer()
				require.NoError(b, h.d.Discard(b.Context(), v))
				if !hot {
					require.NoError(b, h.e.Close())
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkFaninWays is Prepare of a merge: what each entry of the tree costs an
// image, and each change a fix-up layer.
func BenchmarkFaninWays(b *testing.B) {
	h := newErofsHost(b, Options{})
	a, am := h.job(nil, nil, func(dir string) { h.files(dir, "d", 20_000) })
	a = h.image(a, nil, am)
	_, cm := h.job(a, am, func(dir string) { h.files(dir, "new", 2_000) })
	ch := tree.Diff(am, cm)
	for name, f := range map[string]*Fanin{"image": {Changes: ChangesOf(ch), Tree: TreeOf(cm)}, "fix-up": {Changes: ChangesOf(ch)}} {
		h.d.images.always = f.Tree != nil
		b.Run(fmt.Sprintf("%s/entries=%d/changes=%d", name, len(cm.Entries), len(ch)), func(b *testing.B) {
			for b.Loop() {
				v := h.prepare(a, f)
				b.StopTimer()
				require.NoError(b, h.d.Discard(b.Context(), v))
				b.StartTimer()
			}
		})
	}
}

// cpu is what this process or its children have used: on a machine that others use
// too, wall time says little.
func cpu(b *testing.B, who int) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(who, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ways is one tree of n small files: in a plain directory, in a view of that
// directory, and in views of images whose files lie in that directory, or in a
// bundle.
type ways []struct {
	name, dir string
}

func newWays(b *testing.B, n int) (_ ways, entries int, done func()) {
	h := newErofsHost(b, Options{})
	v := h.prepare(nil, nil)
	h.files(v.Target, "d", n)
	require.NoError(b, h.d.Seal(b.Context(), v))
	m := h.tree(&v.Layer, nil)
	ch := tree.Diff(nil, m)
	l, err := h.e.Unpack(b.Context(), newID(b), nil, ch, func(_ context.Context, write WriteFunc) error {
		for i := range ch {
			if e := &ch[i].Entry; e.Type == snapshot.TypeFile {
				if err := write(i, 0, []byte("content")); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil)
	require.NoError(b, err)
	h.e.Locate(l, ch)
	bm, err := tree.Apply(nil, ch)
	require.NoError(b, err)
	overlay := h.prepare(&v.Layer, nil)
	objects := h.prepare(h.image(&v.Layer, nil, m), nil)
	bundle := h.prepare(h.image(l, nil, bm), nil)
	done = func() {
		for _, v := range []*View{overlay, objects, bundle} {
			require.NoError(b, h.d.Discard(b.Context(), v))
		}
	}
	return ways{
		{"plain", h.d.abs(v.Layer.Dir)}, {"overlay", overlay.Target}, {"objects", objects.Target}, {"bundle", bundle.Target},
	}, len(m.Entries), done
}

// BenchmarkGitStatus is git status of 20,000 files whose index is up to date.
func BenchmarkGitStatus(b *testing.B) {
	testenv.Require(b, testenv.Git)
	all, _, done := newWays(b, 20_000)
	for _, c := range all {
		gitDir := b.TempDir()
		git := func(args ...string) {
			cmd := exec.Command("git", append([]string{"--git-dir", gitDir, "--work-tree", c.dir, "-c", "safe.directory=*"}, args...)...)
			cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_OPTIONAL_LOCKS=0")
			cmd.Dir = c.dir
			out, err := cmd.CombinedOutput()
			require.NoError(b, err, "git %s: %s", args, out)
		}
		git("init", "-q")
		git("add", "-A")
		b.Run(c.name, func(b *testing.B) {
			from := cpu(b, unix.RUSAGE_CHILDREN)
			for b.Loop() {
				git("diff-files", "--quiet")
				git("ls-files", "--others")
			}
			b.ReportMetric(float64((cpu(b, unix.RUSAGE_CHILDREN)-from).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
	done()
}

// BenchmarkWalk looks at every file of 100,000, and reads it.
func BenchmarkWalk(b *testing.B) {
	all, entries, done := newWays(b, 100_000)
	for _, c := range all {
		walk := func(b *testing.B, read bool) {
			n := 0
			require.NoError(b, filepath.WalkDir(c.dir, func(p string, e os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				n++
				_, err = os.Lstat(p)
				if err == nil && read && e.Type().IsRegular() {
					_, err = os.ReadFile(p)
				}
				return err
			}))
			require.Equal(b, entries, n)
		}
		for way, read := range map[string]bool{"stat": false, "read": true} {
			b.Run(way+"/"+c.name, func(b *testing.B) {
				walk(b, read)
				from := cpu(b, unix.RUSAGE_SELF)
				for b.Loop() {
					walk(b, read)
				}
				b.ReportMetric(float64((cpu(b, unix.RUSAGE_SELF)-from).Milliseconds())/float64(b.N), "cpu-ms/op")
			})
		}
	}
	done()
}
