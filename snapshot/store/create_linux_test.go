package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// scanned is what is in a directory, without where.
func scanned(t testing.TB, dir string) *snapshot.Manifest {
	t.Helper()
	m, err := tree.Scan(t.Context(), dir, tree.ScanOptions{Owners: root()})
	require.NoError(t, err)
	for i := range m.Entries {
		m.Entries[i].Source = ""
	}
	return m
}

func (b *bench) create(dir string, base snapshot.ID) *Created {
	b.t.Helper()
	c, err := b.Create(ctxOf(b.t), CreateSpec{Dir: dir, Base: base, DomainKey: domainKey})
	require.NoError(b.t, err)
	require.True(b.t, c.StoredOnly)
	return c
}

// back restores a snapshot and compares it with what it was made of.
func (b *bench) back(id snapshot.ID, dir string) {
	b.t.Helper()
	to := filepath.Join(b.t.TempDir(), "back")
	_, err := b.Restore(ctxOf(b.t), RestoreSpec{Snapshot: id, Dir: to})
	require.NoError(b.t, err)
	require.Equal(b.t, scanned(b.t, dir), scanned(b.t, to))
	left, err := filepath.Glob(to + ".*")
	require.NoError(b.t, err)
	require.Empty(b.t, left)
}

// thicket makes a tree of all that a snapshot keeps, and all that is odd.
func thicket(t testing.TB, dir string) {
	t.Helper()
	at := func(p string) string { return filepath.Join(dir, p) }
	must := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 15) // beyond what one open takes, below what a path may have
	must(os.MkdirAll(dir, 0o755))
	cwd := dir
	for i := range 15 {
		cwd = filepath.Join(cwd, strings.Repeat("d", 200))
		must(os.Mkdir(cwd, 0o755))
		if i == 9 {
			break
		}
	}
	require.Less(t, len(deep), snapshot.MaxPathBytes)
	write(t, at("a/plain"), "plain")
	write(t, at("a/empty"), "")
	must(os.WriteFile(at("a/secret"), []byte("s"), 0o000))
	must(os.WriteFile(at("a/setuid"), []byte("u"), 0o755))
	must(unix.Chmod(at("a/setuid"), 0o4755))
	must(os.WriteFile(at("a/big"), chaff(1, 5<<20), 0o400))
	must(os.WriteFile(at("a/"+strings.Repeat("n", 255)), []byte("long"), 0o644))
	must(os.WriteFile(at("a/\xff\xfe\n bad"), []byte("odd"), 0o644))
	must(os.WriteFile(at("a/zeros"), make([]byte, 300_000), 0o644))
	f, err := os.Create(at("a/sparse"))
	must(err)
	must(f.Truncate(40 << 20))
	_, err = f.WriteAt([]byte("middle"), 20<<20)
	must(err)
	must(f.Close())
	must(os.WriteFile(at("a/hole"), nil, 0o644))
	must(os.Truncate(at("a/hole"), 3<<20))
	must(os.MkdirAll(at("z/locked"), 0o755))
	must(os.Link(at("a/big"), at("z/hard")))
	must(os.Link(at("a/big"), at("z/locked/hard")))
	must(os.Link(at("a/empty"), at("z/empty")))
	must(os.Symlink("../nowhere", at("z/dangling")))
	must(os.Symlink("/", at("z/up")))
	must(unix.Mkfifo(at("z/fifo"), 0o640))
	must(unix.Mknod(at("z/socket"), unix.S_IFSOCK|0o700, 0))
	must(os.Mkdir(at("z/sticky"), 0o777))
	must(unix.Chmod(at("z/sticky"), 0o3777))
	if err := unix.Setxattr(at("a/plain"), "user.note", []byte("x\x00y"), 0); err != nil {
		require.ErrorIs(t, err, unix.ENOTSUP)
	}
	unix.Setxattr(at("z"), "user.dir", []byte("d"), 0) //nolint:errcheck // as above
	if root() {
		must(os.Lchown(at("z/dangling"), 12, 34))
		must(os.Chown(at("a/plain"), 1000, 1001))
		must(os.Chown(at("z/sticky"), 1, 2))
	}
	for i := range 250 {
		write(t, at("many/"+strings.Repeat("m", i%7+1)+string(rune('a'+i%26))+"/f"+strings.Repeat("x", i)), strings.Repeat("text ", i))
	}
	old := unix.NsecToTimespec(-1_234_567_890_123_456_789)
	for _, p := range []string{"a/plain", "z/up", "z/fifo", "many"} {
		must(unix.UtimesNanoAt(unix.AT_FDCWD, at(p), []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW))
	}
	must(os.Chmod(at("z/locked"), 0o000))
	t.Cleanup(func() { os.Chmod(at("z/locked"), 0o700) })
}

func blocksOf(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	require.NoError(t, syscall.Lstat(path, &st))
	return st.Blocks
}

func TestCreateAndRestoreThicket(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	thicket(t, dir)
	one := b.create(dir, "")
	require.EqualValues(t, len(scanned(t, dir).Entries), one.Entries)
	b.back(one.ID, dir)
	to := filepath.Join(t.TempDir(), "back")
	_, err := b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: to})
	require.NoError(t, err)
	for _, p := range []string{"a/sparse", "a/hole", "a/zeros"} {
		require.LessOrEqual(t, blocksOf(t, filepath.Join(to, p)), blocksOf(t, filepath.Join(dir, p)), p)
	}

	// A change of each kind, on the base, after a restart.
	b.reopen()
	require.NoError(t, os.Remove(filepath.Join(dir, "a/empty")))
	require.NoError(t, os.Remove(filepath.Join(dir, "z/hard")))
	require.NoError(t, os.Rename(filepath.Join(dir, "many"), filepath.Join(dir, "moved")))
	big, err := os.OpenFile(filepath.Join(dir, "a/big"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = big.WriteAt([]byte("changed"), 2<<20)
	require.NoError(t, err)
	require.NoError(t, big.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "z/up")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "z/up"), 0o711))
	two := b.create(dir, one.ID)
	require.Less(t, two.New, int64(300<<10))
	b.back(two.ID, dir)
	require.NoError(t, b.VerifyAll(t.Context(), []snapshot.ID{two.ID}, nil, func(id snapshot.ID, err error) {
		require.NoError(t, err, id)
	}))
}

func TestCreateReadsOnlyWhatChanged(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	for _, n := range []string{"a", "b", "c", "d/e", "d/f"} {
		write(t, filepath.Join(dir, n), "content of "+n)
	}
	b.o.Now = func() time.Time { return time.Now().Add(time.Minute) } // all of it is old
	b.reopen()
	one := b.create(dir, "")
	require.Zero(t, one.Kept)
	two := b.create(dir, one.ID)
	require.EqualValues(t, 5, two.Kept)
	require.Zero(t, two.New)
	require.Equal(t, one.Manifest, two.Manifest)
	b.back(two.ID, dir)

	// Another content of the same size and mtime: only the ctime tells.
	path := filepath.Join(dir, "b")
	fi, err := os.Stat(path)
	require.NoError(t, err)
	time.Sleep(2 * fineTick)
	write(t, path, "CONTENT of b")
	require.NoError(t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
	three := b.create(dir, two.ID)
	require.EqualValues(t, 4, three.Kept)
	require.EqualValues(t, len("CONTENT of b"), three.New)
	b.back(three.ID, dir)

	// Another file in its place, with all the same but the inode.
	require.NoError(t, os.Rename(path, filepath.Join(t.TempDir(), "b")))
	write(t, path, "content OF b")
	require.NoError(t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
	four := b.create(dir, three.ID)
	require.EqualValues(t, 4, four.Kept)
	b.back(four.ID, dir)

	// A damaged list of inodes costs time only.
	stamps, err := os.ReadFile(b.stampPath(four.ID))
	require.NoError(t, err)
	for _, bad := range [][]byte{nil, stamps[:50], append([]byte("x"), stamps[1:]...), append(bytes.Clone(stamps[:len(stamps)-1]), stamps[len(stamps)-1]^1)} {
		require.NoError(t, os.WriteFile(b.stampPath(four.ID), bad, 0o600))
		five := b.create(dir, four.ID)
		require.Zero(t, five.Kept)
		require.Zero(t, five.New)
		require.Equal(t, four.Manifest, five.Manifest)
	}
}

// Of a large file that is overwritten here and there only that is new, although
// what was there before is in packs alone.
func TestCreateStoresWhatChangedInAFile(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	content := make([]byte, 24<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(content) //nolint:errcheck // never fails
	path := filepath.Join(dir, "level.pak")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	one := b.create(dir, "")
	const piece, pieces = 16 << 10, 20
	for i := range pieces {
		rnd.Read(content[i*len(content)/pieces+12345:][:piece]) //nolint:errcheck // never fails
	}
	require.NoError(t, os.WriteFile(path, content, 0o600))
	two := b.create(dir, one.ID)
	require.Greater(t, two.New, int64(piece*pieces-1))
	require.Less(t, two.New, int64(piece*pieces*13/10))
	b.back(two.ID, dir)

	// Written anew as a whole, it is not unpacked as a whole.
	rnd.Read(content) //nolint:errcheck // never fails
	require.NoError(t, os.WriteFile(path, content, 0o600))
	three := b.create(dir, two.ID)
	require.EqualValues(t, len(content), three.New)
	b.back(three.ID, dir)
}

// What was written just before the scan may be written again within the same
// tick of the clock: it is read the next time.
func TestCreateDoesNotTrustYoungFiles(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "a"), "one")
	fi, err := os.Stat(filepath.Join(dir, "a"))
	require.NoError(t, err)
	now := fi.ModTime()
	b.o.Now = func() time.Time { return now }
	b.reopen()
	one := b.create(dir, "")
	write(t, filepath.Join(dir, "a"), "two")
	require.NoError(t, os.Chtimes(filepath.Join(dir, "a"), now, now))
	two := b.create(dir, one.ID)
	require.Zero(t, two.Kept)
	require.EqualValues(t, 3, two.New)
	three := b.create(dir, two.ID)
	require.Zero(t, three.Kept)
	now = now.Add(time.Hour)
	four := b.create(dir, three.ID)
	require.Zero(t, four.Kept, "of the one before nothing was noted")
	five := b.create(dir, four.ID)
	require.EqualValues(t, 1, five.Kept)
}

func TestCreateStoresNothingTwice(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir, same := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "e")
	for _, d := range []string{dir, same} {
		for i := range 20 {
			require.NoError(t, os.MkdirAll(d, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(d, string(rune('a'+i))), chaff(uint64(i), 200<<10), 0o644))
		}
	}
	one := b.create(dir, "")
	require.EqualValues(t, 20*200<<10, one.New)
	two := b.create(same, "")
	require.Zero(t, two.New)
	require.Empty(t, two.WireBase)
	b.back(two.ID, same)
	// Packs are kept by who uses them.
	require.NoError(t, b.Drop(t.Context(), one.ID))
	b.Tidy()
	b.back(two.ID, same)
	b.reopen()
	b.back(two.ID, same)
	require.NoError(t, b.Drop(t.Context(), two.ID))
	b.Tidy()
	left, err := os.ReadDir(filepath.Join(b.dir, "packs"))
	require.NoError(t, err)
	require.Empty(t, left)

	other, err := b.Create(t.Context(), CreateSpec{Dir: dir, DomainKey: []byte("the key of another domain")})
	require.NoError(t, err)
	mine := b.create(dir, "")
	require.Equal(t, other.New, mine.New, "domains share nothing")
}

// For a little that another tree has too, no pack of that one has to be kept.
func TestCreateTakesNoBurden(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir, small := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "e")
	for i := range 12 {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, string(rune('a'+i))), chaff(uint64(i), 1<<20), 0o644))
	}
	for _, d := range []string{dir, small} {
		write(t, filepath.Join(d, "licence"), "all that you may do")
	}
	one := b.create(dir, "")
	two := b.create(small, "")
	require.EqualValues(t, len("all that you may do"), two.New)
	require.Len(t, two.Blobs, 2)
	require.Less(t, two.Blobs[0].Bytes, int64(1000))
	b.back(two.ID, small)
	// On its own line nothing is stored again, however little is used.
	for i := range 12 {
		require.NoError(t, os.Remove(filepath.Join(dir, string(rune('a'+i)))))
	}
	write(t, filepath.Join(dir, "copy of the licence"), "all that you may do")
	three := b.create(dir, one.ID)
	require.Zero(t, three.New)
	b.back(three.ID, dir)
	require.NoError(t, b.Drop(t.Context(), three.ID))
	require.NoError(t, b.Drop(t.Context(), one.ID))
	b.Tidy()
	b.reopen()
	b.back(two.ID, small)
}

func TestCreateSkipsWhatCantBeKept(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "a"), "a")
	require.NoError(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	_, err := b.Create(t.Context(), CreateSpec{Dir: dir, DomainKey: domainKey})
	var unsupported *snapshot.UnsupportedError
	require.ErrorAs(t, err, &unsupported)
	require.Equal(t, "null", unsupported.Path)
	require.Empty(t, b.List())
	var left []string
	c, err := b.Create(t.Context(), CreateSpec{Dir: dir, DomainKey: domainKey, Skip: func(e *snapshot.UnsupportedError) { left = append(left, e.Path) }})
	require.NoError(t, err)
	require.Equal(t, []string{"null"}, left)
	require.NoError(t, os.Remove(filepath.Join(dir, "null")))
	m, err := b.Tree(t.Context(), c.ID)
	require.NoError(t, err)
	require.Len(t, m.Entries, 2)
}

// A file that is written to after it was looked at ends it, and nothing is left.
func TestCreateOfAChangingTree(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	for name, change := range map[string]func(path string){
		"content":     func(p string) { write(t, p, "b2b2") },
		"longer":      func(p string) { write(t, p, "much longer") },
		"gone":        func(p string) { require.NoError(t, os.Remove(p)) },
		"a directory": func(p string) { require.NoError(t, os.Remove(p)); require.NoError(t, os.Mkdir(p, 0o755)) },
		"a fifo":      func(p string) { require.NoError(t, os.Remove(p)); require.NoError(t, unix.Mkfifo(p, 0o644)) },
		"a link":      func(p string) { require.NoError(t, os.Remove(p)); require.NoError(t, os.Symlink("/etc/passwd", p)) },
	} {
		for _, based := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, on a base: %t", name, based), func(t *testing.T) { createOfAChangingTree(t, change, based) })
		}
	}
}

func createOfAChangingTree(t *testing.T, change func(path string), based bool) {
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "a"), "aaaa")
	c := creating{s: b.Store, spec: &CreateSpec{Dir: dir, DomainKey: domainKey, Progress: &Progress{}}, id: newID(t)}
	if based {
		c.spec.Base = b.create(dir, "").ID
	}
	write(t, filepath.Join(dir, "b"), "bbbb")
	there := func() (names []string) {
		for _, d := range []string{"packs", "indexes", "manifests", "tmp"} {
			list, err := os.ReadDir(filepath.Join(b.dir, d))
			require.NoError(t, err)
			for _, e := range list {
				names = append(names, d+"/"+e.Name())
			}
		}
		return names
	}
	before := there()
	require.NoError(t, c.prepare())
	w := newWhole(&c)
	require.NoError(t, w.look(t.Context()))
	time.Sleep(2 * fineTick)
	change(filepath.Join(dir, "b"))
	_, err := w.store(t.Context())
	var changed *ChangedError
	require.ErrorAs(t, err, &changed)
	require.Equal(t, "b", changed.Path)
	b.sweepUnnamed()
	require.Equal(t, before, there(), "nothing is left")
}

func TestCreateRefuses(t *testing.T) {
	b := newBench(t, view.NameCopy)
	_, err := b.Create(t.Context(), CreateSpec{Dir: filepath.Dir(b.dir), DomainKey: domainKey})
	require.ErrorContains(t, err, "would hold itself")
	_, err = b.Create(t.Context(), CreateSpec{Dir: t.TempDir()})
	require.ErrorIs(t, err, errNoKey)
	_, err = b.Create(t.Context(), CreateSpec{Dir: filepath.Join(t.TempDir(), "none"), DomainKey: domainKey})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = b.Create(t.Context(), CreateSpec{Dir: t.TempDir(), Base: newID(t), DomainKey: domainKey})
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	require.Empty(t, b.List())
}

func TestCreateChainBeginsAnew(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	b.o.MaxChain = 3
	b.reopen()
	dir := filepath.Join(t.TempDir(), "d")
	var last snapshot.ID
	var bases []bool
	for i := range 8 {
		write(t, filepath.Join(dir, string(rune('a'+i))), strings.Repeat(string(rune('a'+i)), 1000))
		c := b.create(dir, last)
		last = c.ID
		bases = append(bases, c.WireBase != "")
		chain, err := b.Chain(last)
		require.NoError(t, err)
		require.LessOrEqual(t, len(chain), 3)
		b.back(last, dir)
	}
	require.Equal(t, []bool{false, true, true, false, true, true, false, true}, bases)
	// The last chain does without what was before it.
	for _, in := range slices.Backward(b.List()[:6]) {
		require.NoError(t, b.Drop(t.Context(), in.ID))
	}
	b.reopen()
	b.back(last, dir)
}

// Jobs' views can stand on a created snapshot, once it is unpacked.
func TestMaterialise(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		testenv.Require(t, testenv.Linux, testenv.Root)
		b := newBench(t, driver)
		dir := filepath.Join(t.TempDir(), "d")
		thicket(t, dir)
		one := b.create(dir, "")
		write(t, filepath.Join(dir, "new"), "new")
		two := b.create(dir, one.ID)
		_, err := b.Prepare(t.Context(), b.spec(two.ID))
		require.ErrorIs(t, err, ErrStoredOnly)
		_, err = b.Mount(t.Context(), two.ID, filepath.Join(t.TempDir(), "m"))
		require.ErrorIs(t, err, ErrStoredOnly)
		require.NoError(t, b.Materialise(t.Context(), two.ID, nil))
		require.NoError(t, b.Materialise(t.Context(), two.ID, nil), "again")
		b.requireTree(two.ID)
		b.back(two.ID, dir)
		require.NoError(t, b.Verify(t.Context(), two.ID))
		b.reopen()
		in, err := b.Lookup(two.ID)
		require.NoError(t, err)
		require.False(t, in.StoredOnly)
		b.requireTree(two.ID)
		three := b.job(func(d string) { write(t, d+"/a/job", "job") }, two.ID)
		b.packed(three.ID)
		b.requireTree(three.ID)
		// Where the sources were noted can be found again.
		require.NoError(t, os.Remove(b.srcPath(two.ID)))
		b.reopen()
		b.requireTree(three.ID)
		require.NoError(t, b.Drop(t.Context(), three.ID))
		require.NoError(t, b.Drop(t.Context(), two.ID))
		b.back(one.ID, func() string {
			require.NoError(t, os.Remove(filepath.Join(dir, "new")))
			m, err := b.Tree(t.Context(), one.ID)
			require.NoError(t, err)
			at := unix.NsecToTimespec(m.Entries[0].MTime)
			require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{at, at}, 0))
			return dir
		}())
		entries, err := os.ReadDir(filepath.Join(b.dir, "views"))
		require.NoError(t, err)
		require.Empty(t, entries)
	})
}
