package store

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// hostileLists are trees that no honest store has. All name something outside.
func hostileLists(outside string) map[string][]snapshot.Entry {
	dir := func(p string) snapshot.Entry {
		return snapshot.Entry{Path: p, Type: snapshot.TypeDir, Mode: 0o755}
	}
	file := func(p string) snapshot.Entry {
		return snapshot.Entry{Path: p, Type: snapshot.TypeFile, Mode: 0o644, Size: 4}
	}
	link := func(p, to string) snapshot.Entry {
		return snapshot.Entry{Path: p, Type: snapshot.TypeSymlink, Target: to}
	}
	return map[string][]snapshot.Entry{
		"two dots":                 {dir(""), file("../outside/evil")},
		"two dots inside":          {dir(""), dir("a"), file("a/../../outside/evil")},
		"a directory of dots":      {dir(""), dir("..")},
		"absolute":                 {dir(""), file(outside + "/evil")},
		"NUL":                      {dir(""), file("a\x00b")},
		"symlink, then through it": {dir(""), link("l", outside), file("l/evil")},
		"symlink for a directory":  {dir(""), link("l", outside), dir("l"), file("l/evil")},
		"file, then below it":      {dir(""), file("x"), file("x/y")},
		"below nothing":            {dir(""), file("nowhere/y")},
		"twice":                    {dir(""), file("x"), file("x")},
		"unknown type":             {dir(""), {Path: "x", Type: 99}},
		"foreign attribute":        {dir(""), {Path: "x", Type: snapshot.TypeFile, Xattrs: []snapshot.Xattr{{Name: "trusted.overlay.redirect", Value: []byte("/etc")}}}},
		"capability":               {dir(""), {Path: "x", Type: snapshot.TypeFile, Xattrs: []snapshot.Xattr{{Name: "security.capability", Value: []byte{1}}}}},
		"hard link outside":        {dir(""), {Path: "y", Type: snapshot.TypeFile, Size: 4, Link: "../outside/canary"}},
		"hard link by a symlink":   {dir(""), link("l", outside), {Path: "y", Type: snapshot.TypeFile, Size: 4, Link: "l/canary"}},
		"device by mode":           {dir(""), {Path: "x", Type: snapshot.TypeFile, Mode: unix.S_IFCHR | 0o666, Target: "x"}},
	}
}

// The validation of lists stands before the restorer; without it nothing outside
// is touched either.
func TestRestoreTouchesNothingOutside(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	home := t.TempDir()
	outside := filepath.Join(home, "outside")
	write(t, filepath.Join(outside, "canary"), "alive")
	before := scanned(t, outside)
	for name, entries := range hostileLists(outside) {
		t.Run(name, func(t *testing.T) {
			changes := make([]snapshot.Change, len(entries))
			for i, e := range entries {
				changes[i].Entry = e
			}
			to := filepath.Join(home, "to")
			require.NoError(t, os.Mkdir(to, 0o700))
			defer os.RemoveAll(to)
			w := writing{s: b.Store, ix: &pack.Index{Changes: changes}, key: domainKey, progress: &Progress{}}
			err := w.to(t.Context(), to, func(ctx context.Context, write func(context.Context) error) error { return write(ctx) })
			if name != "device by mode" {
				require.Error(t, err)
			} else if err == nil {
				fi, err := os.Lstat(filepath.Join(to, "x"))
				require.NoError(t, err)
				require.True(t, fi.Mode().IsRegular())
			}
			require.Equal(t, before, scanned(t, outside))
			require.Equal(t, "alive", read(t, filepath.Join(outside, "canary")))
		})
	}
}

func TestRestoreRefuses(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "a"), "a")
	one := b.create(dir, "")
	home := t.TempDir()
	full, file, dangling := filepath.Join(home, "full"), filepath.Join(home, "file"), filepath.Join(home, "dangling")
	write(t, filepath.Join(full, "mine"), "mine")
	write(t, file, "mine")
	require.NoError(t, os.Symlink("nowhere", dangling))
	for _, to := range []string{full, file, dangling} {
		_, err := b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: to})
		require.Error(t, err, to)
	}
	require.Equal(t, "mine", read(t, filepath.Join(full, "mine")))
	_, err := b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: full})
	require.ErrorIs(t, err, ErrNotEmpty)
	link := filepath.Join(home, "link")
	require.NoError(t, os.Symlink(b.dir, link))
	for _, to := range []string{b.dir, filepath.Join(b.dir, "new"), filepath.Join(b.dir, "tmp"), filepath.Join(link, "packs", "new")} {
		_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: to})
		require.ErrorIs(t, err, ErrOverlap, to)
	}
	_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: "/proc/sys"})
	require.Error(t, err)
	_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: newID(t), Dir: filepath.Join(home, "x")})
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	// An empty directory is taken, and loses its look.
	empty := filepath.Join(home, "empty")
	require.NoError(t, os.Mkdir(empty, 0o711))
	_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: empty})
	require.NoError(t, err)
	require.Equal(t, scanned(t, dir), scanned(t, empty))
	// What a killed restore has left goes.
	to := filepath.Join(home, "to")
	write(t, to+".partial-"+string(one.ID[:partialDigits])+"/half", "half")
	write(t, to+".partial-another/half", "half")
	_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: to})
	require.NoError(t, err)
	left, err := filepath.Glob(to + ".partial-*")
	require.NoError(t, err)
	require.Equal(t, []string{to + ".partial-another"}, left)
}

func TestRestoreEndsWithItsContext(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	for i := range 64 {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, string(rune('0'+i))), chaff(uint64(i), 1<<20), 0o400))
	}
	one := b.create(dir, "")
	ctx, cancel := context.WithCancel(t.Context())
	p := &Progress{}
	go func() {
		for p.Done.Load() == 0 {
			if ctx.Err() != nil {
				return
			}
		}
		cancel()
	}()
	to := filepath.Join(t.TempDir(), "to")
	_, err := b.Restore(ctx, RestoreSpec{Snapshot: one.ID, Dir: to, Progress: p})
	require.ErrorIs(t, err, context.Canceled)
	left, err := filepath.Glob(to + "*")
	require.NoError(t, err)
	require.Empty(t, left)
	b.back(one.ID, dir)

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = b.Create(ctx, CreateSpec{Dir: dir, DomainKey: domainKey})
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, b.List(), 1)
}

// A directory with a default ACL, or setgid, gives nothing of it to the restored
// tree.
func TestRestoreInheritsNothing(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "a/b"), "b")
	one := b.create(dir, "")
	home := filepath.Join(t.TempDir(), "home")
	require.NoError(t, os.Mkdir(home, 0o700))
	require.NoError(t, os.Chown(home, 5, 7))
	require.NoError(t, unix.Chmod(home, 0o2777))
	acl := []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x05\x00\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(home, "system.posix_acl_default", acl, 0); err != nil {
		require.ErrorIs(t, err, unix.ENOTSUP)
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	_, err := b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: filepath.Join(home, "r")})
	require.NoError(t, err)
	require.Equal(t, scanned(t, dir), scanned(t, filepath.Join(home, "r")))
}

// On a full disk nothing is lost and nothing is left: not of a create, a pull, a
// restore, an unpacking.
func TestFullDiskOfSnapshots(t *testing.T) {
	disk := smallDisk(t, 48)
	b := benchAt(t, filepath.Join(disk, "store"), view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	for i := range 12 {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, string(rune('a'+i))), chaff(uint64(i), 1<<20), 0o644))
	}
	one := b.create(dir, "")
	for i := range 60 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "more"+strings.Repeat("x", i)), chaff(uint64(100+i), 1<<20), 0o644))
	}
	free := func() uint64 {
		var st unix.Statfs_t
		require.NoError(t, unix.Syncfs(func() int {
			f, err := os.Open(disk)
			require.NoError(t, err)
			t.Cleanup(func() { f.Close() })
			return int(f.Fd())
		}()))
		require.NoError(t, unix.Statfs(disk, &st))
		return st.Bavail * uint64(st.Bsize)
	}
	before := free()
	_, err := b.Create(t.Context(), CreateSpec{Dir: dir, Base: one.ID, DomainKey: domainKey})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Len(t, b.List(), 1)
	require.InDelta(t, before, free(), 1<<20, "what was written is deleted at once")

	// No room for a restore beside it either, nor for an unpacking.
	require.NoError(t, os.WriteFile(filepath.Join(disk, "ballast"), chaff(1, int(free())-(6<<20)), 0o600))
	_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: filepath.Join(disk, "r")})
	require.ErrorIs(t, err, syscall.ENOSPC)
	err = b.Materialise(t.Context(), one.ID, nil)
	require.ErrorIs(t, err, syscall.ENOSPC)
	left, err := filepath.Glob(filepath.Join(disk, "r*"))
	require.NoError(t, err)
	require.Empty(t, left)
	in, err := b.Lookup(one.ID)
	require.NoError(t, err)
	require.True(t, in.StoredOnly)

	require.NoError(t, os.Remove(filepath.Join(disk, "ballast")))
	for i := range 60 {
		require.NoError(t, os.Remove(filepath.Join(dir, "more"+strings.Repeat("x", i))))
	}
	b.reopen()
	two := b.create(dir, one.ID)
	require.Zero(t, two.New)
	b.back(two.ID, dir)
	require.NoError(t, b.Materialise(t.Context(), two.ID, nil))
	b.requireTree(two.ID)
}

// What a sync on the way says is not said again by the one at the end.
func TestFlusherTells(t *testing.T) {
	f := newFlusher(-1)
	f.wrote(10)
	f.wrote(flushEvery)
	require.ErrorIs(t, f.stop(), unix.EBADF)
	f = newFlusher(-1)
	f.wrote(10)
	require.NoError(t, f.stop(), "there was no reason for one")
}

// Directories are made with the mode that they are to have, or get it in the end: with
// whatever umask, and whatever they let their owner do.
func TestRestoreDirModes(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b := newBench(t, view.NameCopy)
	src := filepath.Join(t.TempDir(), "src")
	for i, m := range []uint32{0o755, 0o700, 0o777, 0o500, 0o300, 0o711, 0o1777, 0o2775, 0o750, 0, 0o007, 0o400} {
		d := filepath.Join(src, string(rune('a'+i)), "in", "deeper")
		require.NoError(t, os.MkdirAll(d, 0o755))
		write(t, d+"/f", "f")
		for _, p := range []string{d, filepath.Dir(d), filepath.Dir(filepath.Dir(d))} {
			require.NoError(t, syscall.Chmod(p, m))
		}
	}
	in, err := b.Create(t.Context(), CreateSpec{Dir: src, DomainKey: domainKey})
	require.NoError(t, err)
	for _, mask := range []int{0o022, 0o077, 0, 0o777} {
		dst := filepath.Join(t.TempDir(), "dst")
		old := syscall.Umask(mask)
		_, err := b.Restore(t.Context(), RestoreSpec{Snapshot: in.ID, Dir: dst})
		syscall.Umask(old)
		require.NoError(t, err)
		require.Equal(t, scanned(t, src), scanned(t, dst), "umask %o", mask)
	}
}
