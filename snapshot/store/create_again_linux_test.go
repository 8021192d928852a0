package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// againBench has a directory of which a snapshot was made.
func againBench(t *testing.T) (b *bench, dir string, one *Created) {
	b = newBench(t, view.NameCopy)
	b.o.Now = func() time.Time { return time.Now().Add(time.Minute) } // all of it is old
	b.reopen()
	dir = filepath.Join(t.TempDir(), "d")
	thicket(t, dir)
	return b, dir, b.create(dir, "")
}

// fromStamps reports whether a snapshot was made without a list of its tree.
func (b *bench) fromStamps(base, id snapshot.ID) bool {
	was, err := os.Stat(b.stampPath(base))
	require.NoError(b.t, err)
	is, err := os.Stat(b.stampPath(id))
	require.NoError(b.t, err)
	return os.SameFile(was, is)
}

func TestCreateOfAnUnchangedTree(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b, dir, last := againBench(t)
	first := last
	for range 3 {
		p := &Progress{}
		c, err := b.Create(t.Context(), CreateSpec{Dir: dir, Base: last.ID, DomainKey: domainKey, Progress: p})
		require.NoError(t, err)
		require.True(t, b.fromStamps(last.ID, c.ID))
		require.Equal(t, first.Manifest, c.Manifest)
		require.Equal(t, first.Entries, c.Entries)
		require.Equal(t, first.TreeBytes, c.TreeBytes)
		require.Equal(t, p.Files.Load(), c.Kept)
		require.Zero(t, c.New)
		b.back(c.ID, dir)
		last = c
	}
	require.NoError(t, b.Drop(t.Context(), last.ID))
	b.reopen()
	b.back(first.ID, dir)

	_, err := os.Stat(b.stampPath(first.ID))
	require.NoError(t, err, "a list that had two names")
	manifest, err := os.ReadFile(b.manifestPath(first.Manifest))
	require.NoError(t, err)
	manifest[len(manifest)/2] ^= 4
	require.NoError(t, os.Chmod(b.manifestPath(first.Manifest), 0o600))
	require.NoError(t, os.WriteFile(b.manifestPath(first.Manifest), manifest, 0o600))
	b.reopen()
	_, err = b.Create(t.Context(), CreateSpec{Dir: dir, Base: first.ID, DomainKey: domainKey})
	var corrupt *snapshot.CorruptError
	require.ErrorAs(t, err, &corrupt, "nothing is made of a damaged base")
}

// Whatever is changed is noticed, and what is not read again is as it was.
func TestCreateNoticesEveryChange(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Linux, testenv.Root)
	for name, change := range map[string]func(dir string) error{
		"mode":      func(d string) error { return os.Chmod(d+"/a", 0o700) },
		"owner":     func(d string) error { return os.Lchown(d+"/a", 3, 4) },
		"attribute": func(d string) error { return unix.Setxattr(d+"/a", "user.new", []byte("1"), 0) },
		"time":      func(d string) error { return os.Chtimes(d, time.Unix(5, 6), time.Unix(7, 8)) },
		"new":       func(d string) error { return os.WriteFile(d+"/zz", nil, 0o600) },
		"renamed":   func(d string) error { return os.Rename(d+"/a", d+"/b4") },
		"replaced":  func(d string) error { return errors.Join(os.RemoveAll(d+"/a"), os.Symlink("x", d+"/a")) },
		"gone":      func(d string) error { return os.RemoveAll(d + "/a") },
		"written":   func(d string) error { return os.WriteFile(d+"/zfile", []byte("B"), 0o600) },
		"linked":    func(d string) error { return os.Link(d+"/zfile", d+"/a/zfile") },
		"a linked name moves in": func(d string) error {
			return os.Rename(filepath.Dir(d)+"/outside", d+"/inside")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, dir, _ := againBench(t)
			outside := filepath.Join(filepath.Dir(dir), "outside")
			require.NoError(t, os.WriteFile(dir+"/zfile", []byte("b"), 0o600))
			require.NoError(t, os.Mkdir(outside, 0o755))
			require.NoError(t, os.Link(dir+"/zfile", outside+"/name"))
			one := b.create(dir, "")
			require.True(t, b.fromStamps(one.ID, b.create(dir, one.ID).ID), "a name elsewhere is no change")
			time.Sleep(2 * fineTick)
			require.NoError(t, change(dir))
			two := b.create(dir, one.ID)
			require.False(t, b.fromStamps(one.ID, two.ID))
			require.NotEqual(t, one.Manifest, two.Manifest)
			b.back(two.ID, dir)
			require.True(t, b.fromStamps(two.ID, b.create(dir, two.ID).ID))
		})
	}
}

// What was left out is told of again.
func TestCreateAgainOfWhatCantBeKept(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b, dir, _ := againBench(t)
	require.NoError(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	var left int
	skip := func(*snapshot.UnsupportedError) { left++ }
	one, err := b.Create(t.Context(), CreateSpec{Dir: dir, DomainKey: domainKey, Skip: skip})
	require.NoError(t, err)
	_, err = b.Create(t.Context(), CreateSpec{Dir: dir, Base: one.ID, DomainKey: domainKey, Skip: skip})
	require.NoError(t, err)
	require.Equal(t, 2, left)
	_, err = b.Create(t.Context(), CreateSpec{Dir: dir, Base: one.ID, DomainKey: domainKey})
	var unsupported *snapshot.UnsupportedError
	require.ErrorAs(t, err, &unsupported)
}
