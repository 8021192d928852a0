package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// scribbler is a job that does all that it can think of to a tree.
type scribbler struct {
	t   *testing.T
	rnd *rand.Rand
	dir string
}

func (j *scribbler) names(want func(os.FileInfo) bool) (out []string) {
	require.NoError(j.t, filepath.Walk(j.dir, func(p string, fi os.FileInfo, err error) error {
		if err == nil && p != j.dir && want(fi) {
			out = append(out, p)
		}
		return err
	}))
	return out
}

func isDir(fi os.FileInfo) bool  { return fi.IsDir() }
func isFile(fi os.FileInfo) bool { return fi.Mode().IsRegular() }

// some is one of the tree's names, "" if there is none.
func (j *scribbler) some(want func(os.FileInfo) bool) string {
	all := j.names(want)
	if len(all) == 0 {
		return ""
	}
	return all[j.rnd.IntN(len(all))]
}

// fresh is a name that there is not, in some directory.
func (j *scribbler) fresh() string {
	in := j.some(isDir)
	if in == "" || j.rnd.IntN(4) == 0 {
		in = j.dir
	}
	for {
		p := filepath.Join(in, fmt.Sprintf("%c%d", 'a'+rune(j.rnd.IntN(26)), j.rnd.IntN(40)))
		if _, err := os.Lstat(p); err != nil {
			return p
		}
	}
}

func (j *scribbler) content() []byte {
	n := j.rnd.IntN(3000)
	switch j.rnd.IntN(12) {
	case 0:
		n = 0
	case 1:
		n = 1<<20 + j.rnd.IntN(1<<20)
	}
	return chaff(j.rnd.Uint64()%6, n) // some are alike
}

func (j *scribbler) step() {
	must := func(err error) { require.NoError(j.t, err) }
	any := func(os.FileInfo) bool { return true }
	switch j.rnd.IntN(14) {
	case 0, 1, 2:
		must(os.WriteFile(j.fresh(), j.content(), 0o640))
	case 3, 4:
		must(os.MkdirAll(filepath.Join(j.fresh(), "sub"), 0o755))
	case 5:
		must(os.Symlink("to "+fmt.Sprint(j.rnd.IntN(9)), j.fresh()))
	case 6:
		if p := j.some(isFile); p != "" {
			must(os.Link(p, j.fresh()))
		}
	case 7:
		if p := j.some(any); p != "" {
			must(os.RemoveAll(p))
		}
	case 8:
		j.rename()
	case 9:
		if p := j.some(isDir); p != "" { // made anew: opaque
			must(os.RemoveAll(p))
			must(os.Mkdir(p, 0o700))
			must(os.WriteFile(filepath.Join(p, "new"), j.content(), 0o600))
		}
	case 10:
		if p := j.some(any); p != "" { // another type
			must(os.RemoveAll(p))
			must(os.WriteFile(p, j.content(), 0o600))
		}
	case 11:
		if p := j.some(isFile); p != "" {
			must(os.Chmod(p, os.FileMode(0o600+j.rnd.IntN(0o100))))
		}
	case 12:
		if p := j.some(isFile); p != "" {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			must(err)
			_, err = f.WriteAt([]byte("changed"), j.rnd.Int64N(1<<20))
			must(err)
			must(f.Close())
		}
	case 13:
		if p := j.some(isFile); p != "" {
			must(os.Remove(p))
			must(os.Mkdir(p, 0o755))
		}
	}
}

// rename gives a file or a directory another name, and maybe puts something in the place
// of the old one.
func (j *scribbler) rename() {
	from, to := j.some(func(os.FileInfo) bool { return true }), j.fresh()
	if from == "" || to == from || strings.HasPrefix(to, from+"/") {
		return
	}
	require.NoError(j.t, os.Rename(from, to))
	if j.rnd.IntN(3) == 0 {
		require.NoError(j.t, os.Mkdir(from, 0o711))
		require.NoError(j.t, os.WriteFile(filepath.Join(from, "instead"), j.content(), 0o600))
	}
}

// What a layer becomes does not depend on whether its tree is in memory: the tree itself,
// its image, packs, index, manifest and sources are the same, bit by bit.
func TestLongTreeIsTheSame(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	for _, c := range []struct {
		driver string
		lines  int
	}{{view.NameErofs, 6}, {view.NameOverlay, 1}, {view.NameCopy, 4}, {view.NameReflink, 2}} {
		t.Run(c.driver, func(t *testing.T) {
			dir := ""
			if c.driver == view.NameReflink {
				dir = testenv.Disk(t, testenv.XFS, 512<<20)
			}
			if testing.Short() {
				c.lines = min(c.lines, 2)
			}
			for seed := range c.lines {
				t.Run(fmt.Sprint(seed), func(t *testing.T) { testLongTrees(t, c.driver, dir, seed) })
			}
		})
	}
}

// testLongTrees has a line of jobs in a store below dir, "": anywhere.
func testLongTrees(t *testing.T, driver, dir string, seed int) {
	const jobs = 7
	at := t.TempDir()
	if dir != "" {
		at = filepath.Join(dir, fmt.Sprint(seed))
	}
	b := benchAt(t, filepath.Join(at, "store"), driver)
	b.disk = dir
	if seed%2 == 1 {
		b.close()
		b.o.MaxChain = 3
		b.o.Driver = func(r string) (view.Driver, error) {
			return view.Open(driver, r, view.Options{Owners: true, ScratchFrom: 1, FarMost: 1})
		}
		b.open()
	}
	rnd := rand.New(rand.NewPCG(uint64(seed), 77))
	var line []snapshot.ID
	for n := range jobs {
		if seed%2 == 1 {
			b.fewer = 5 // sealed entry by entry, too
		}
		in := b.job(func(dir string) {
			j := &scribbler{t, rnd, dir}
			for range 10 + 50/(n+1) {
				j.step()
			}
		}, line[max(0, len(line)-1):]...)
		b.fewer = 0
		require.Equal(t, Sealed, in.State, in.Err)
		line = append(line, in.ID)
		if rnd.IntN(3) > 0 { // else the next one stands on what is not packed
			b.packLine(line, seed%3 == 0)
		}
	}
	b.packLine(line, false)
}

// A copy that can't be kept is found at its seal, be its tree in memory or not, and what it
// adds up to is the same.
func TestLongSealOfCopy(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	for _, fewer := range []int{0, 5} {
		t.Run(fmt.Sprint(fewer), func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			b.fewer = fewer
			in := b.job(func(dir string) {
				write(t, dir+"/d/a", "some bytes")
				require.NoError(t, os.Link(dir+"/d/a", dir+"/b"))
			})
			require.Equal(t, Sealed, in.State)
			require.Equal(t, totals{10, 4}, totals{in.TreeBytes, in.Entries})
			require.EqualValues(t, 10, in.DiskBytes)
			in = b.job(func(dir string) { require.NoError(t, unix.Mknod(dir+"/d/dev", unix.S_IFCHR|0o600, 1<<8|3)) }, in.ID)
			require.Equal(t, Broken, in.State)
			require.Contains(t, in.Err, "d/dev")
		})
	}
}

// A file of several names of which one moved is listed with all of them, and a large one
// is cut as the base has it under whichever name, be the names in parts of their own.
func TestLongTreeOfLinks(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	for _, d := range []string{view.NameErofs, view.NameCopy} {
		t.Run(d, func(t *testing.T) { testLongTreeOfLinks(t, newBench(t, d)) })
	}
}

func testLongTreeOfLinks(t *testing.T, b *bench) {
	one := b.job(func(dir string) {
		write(t, dir+"/d/c", "a file of three names")
		require.NoError(t, os.Link(dir+"/d/c", dir+"/a"))
		require.NoError(t, os.Link(dir+"/d/c", dir+"/b"))
		require.NoError(t, os.WriteFile(dir+"/large", chaff(1, 3<<20), 0o600))
		for i := range 20 {
			write(t, fmt.Sprintf("%s/between/%d", dir, i), fmt.Sprint(i))
		}
	})
	b.requireLongPack(b.layers[one.ID], 5)
	two := b.job(func(dir string) {
		require.NoError(t, os.Rename(dir+"/d", dir+"/e"))
		require.NoError(t, os.Link(dir+"/large", dir+"/another"))
		f, err := os.OpenFile(dir+"/large", os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("changed"), 1_000_000)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		for i := range 20 {
			write(t, fmt.Sprintf("%s/between/%d", dir, i), fmt.Sprint(i, "again"))
		}
	}, one.ID)
	l := b.layers[two.ID]
	b.requireLongTree(l, true)
	b.requireLongPack(l, 5)
	ix, err := b.readIndex(l.info.Index)
	require.NoError(t, err)
	listed := map[string]string{}
	for i := range ix.Changes {
		listed[ix.Changes[i].Entry.Path] = ix.Changes[i].Entry.Link
	}
	for path, link := range map[string]string{"a": "a", "b": "a", "e/c": "a", "another": "another", "large": "another"} {
		require.Equal(t, link, listed[path], path)
	}
	require.Less(t, l.info.StoredBytes, int64(1<<20))
}

// packLine packs what is not packed yet, both ways, and has images made before or after.
func (b *bench) packLine(line []snapshot.ID, images bool) {
	b.t.Helper()
	for _, id := range line {
		b.requireLongTree(b.layers[id], images)
	}
	for i, id := range line {
		if l := b.layers[id]; l.info.State == Sealed {
			b.requireLongPack(l, []int{5, 1 << 20}[i%2])
		}
	}
	for _, id := range line {
		b.requireLongTree(b.layers[id], true)
	}
}

// longly has fn go through trees entry by entry, in parts.
func (b *bench) longly(part int, fn func(d view.Lister)) {
	d, ok := b.Driver().(view.Lister)
	require.True(b.t, ok)
	b.forgetTrees()
	b.fewer = part
	defer func() { b.fewer = 0; b.forgetTrees() }()
	fn(d)
}

func (b *bench) forgetTrees() {
	for id := range b.layers {
		b.trees.drop(id)
	}
}

func (b *bench) requireLongTree(l *layer, images bool) {
	b.t.Helper()
	m, err := b.Tree(b.t.Context(), l.info.ID)
	require.NoError(b.t, err)
	want := slices.Clone(m.Entries)
	b.longly(5, func(d view.Lister) {
		tree, sum, err := b.longTree(b.t.Context(), d, l)
		require.NoError(b.t, err)
		for range 2 {
			var got []snapshot.Entry
			require.NoError(b.t, tree(func(e *snapshot.Entry) error { got = append(got, *e); return nil }))
			require.Equal(b.t, want, got)
		}
		require.Equal(b.t, totals{m.Bytes(), int64(len(m.Entries))}, sum)
	})
	if _, ok := b.Driver().(imager); ok && images && stacked(l.place()) {
		b.requireLongImage(l, m)
	}
}

func (b *bench) requireLongImage(l *layer, m *snapshot.Manifest) {
	b.t.Helper()
	whole, err := b.draw(b.t.Context(), l, l.place(), m)
	require.NoError(b.t, err)
	want, err := os.ReadFile(filepath.Join(b.dir, whole.Image))
	require.NoError(b.t, err)
	b.Driver().(view.Cacher).DropCached() //nolint:forcetypeassert // this driver is one
	b.longly(5, func(d view.Lister) { require.NoError(b.t, b.imageLong(b.t.Context(), d, l)) })
	require.Equal(b.t, whole, l.place())
	got, err := os.ReadFile(filepath.Join(b.dir, l.place().Image))
	require.NoError(b.t, err)
	require.True(b.t, bytes.Equal(want, got), "the images differ")
}

func (b *bench) requireLongPack(l *layer, part int) {
	b.t.Helper()
	ctx := b.t.Context()
	b.sync(ctx, l)
	e, err := b.encode(ctx, l)
	require.NoError(b.t, err)
	var want bytes.Buffer
	_, err = pack.WriteIndex(&want, e.ix)
	require.NoError(b.t, err)
	sources, err := b.encodeSources(e.ix.Manifest, e.tree)
	require.NoError(b.t, err)
	b.longly(part, func(view.Lister) { require.NoError(b.t, b.pack(ctx, l)) })
	in, err := b.Lookup(l.info.ID)
	require.NoError(b.t, err)
	require.Equal(b.t, Packed, in.State)
	got, err := os.ReadFile(b.indexPath(in.Index))
	require.NoError(b.t, err)
	if part > len(e.ix.Changes)+len(e.tree.Entries) { // of one part
		require.True(b.t, bytes.Equal(want.Bytes(), got), "the indexes differ")
		require.Equal(b.t, e.stats.Stored+in.IndexBytes, in.StoredBytes)
	} else { // frames end with parts
		x, err := pack.ReadIndex(&want)
		require.NoError(b.t, err)
		y, err := pack.ReadIndex(bytes.NewReader(got))
		require.NoError(b.t, err)
		require.Equal(b.t, x.Changes, y.Changes)
		require.Equal(b.t, x.Base, y.Base)
	}
	require.Equal(b.t, e.ix.Manifest, in.Manifest)
	require.Equal(b.t, e.base, in.WireBase)
	require.Equal(b.t, e.sum, totals{in.TreeBytes, in.Entries})
	require.Equal(b.t, e.own+in.StoredBytes, in.DiskBytes)
	require.Equal(b.t, e.stats.Plain, in.PlainBytes)
	has, err := readSummed(b.srcPath(in.ID), srcMagic)
	require.NoError(b.t, err)
	require.True(b.t, bytes.Equal(sources[len(srcMagic):], has), "the lists of sources differ")
	b.requireFoundAgain(l)
}

// requireFoundAgain checks that the list of sources of a packed layer can be made again,
// in the same way and by the same words as if the tree were in memory.
func (b *bench) requireFoundAgain(l *layer) {
	b.t.Helper()
	ctx, name := b.t.Context(), b.srcPath(l.info.ID)
	m, err := b.readManifest(l.info.Manifest)
	require.NoError(b.t, err)
	require.NoError(b.t, b.findSources(ctx, l, m))
	want, err := b.encodeSources(l.info.Manifest, m)
	require.NoError(b.t, err)
	require.NoError(b.t, os.Remove(name))
	b.longly(5, func(view.Lister) {
		t, err := b.openTree(ctx, l)
		require.NoError(b.t, err)
		defer t.close()
		require.Nil(b.t, t.m, "it is in memory")
		n := 0
		require.NoError(b.t, t.each(ctx)(func(e *snapshot.Entry) error {
			require.Equal(b.t, m.Entries[n].Source, e.Source, e.Path)
			n++
			return nil
		}))
		require.Len(b.t, m.Entries, n)
	})
	has, err := readSummed(name, srcMagic)
	require.NoError(b.t, err)
	require.True(b.t, bytes.Equal(want[len(srcMagic):], has), "the lists of sources that were made again differ")
}
