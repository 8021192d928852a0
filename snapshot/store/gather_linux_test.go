package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

const gatherFew = 4 // small files that make a bundle in these tests

// gatherBench is a store that gathers few files, soon.
func gatherBench(t *testing.T) *bench {
	t.Helper()
	return gatherBenchOf(t, 0)
}

// gatherBenchOf is one that has no more than few entries of a tree in memory, if that is
// not 0.
func gatherBenchOf(t *testing.T, few int) *bench {
	t.Helper()
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	b := newBench(t, view.NameErofs)
	b.few = few
	b.fewer = few
	b.eager()
	return b
}

// wholeOrParts runs fn with trees in memory, and with a few entries of each.
func wholeOrParts(t *testing.T, fn func(t *testing.T, few int)) {
	t.Helper()
	for _, few := range []int{0, 3} {
		t.Run(fmt.Sprint(few, " entries in memory"), func(t *testing.T) { fn(t, few) })
	}
}

func (b *bench) eager() {
	b.gathering.least, b.gathering.every = gatherFew, 20*time.Millisecond
}

// reopenEager is a crash, and a new process that gathers as early.
func (b *bench) reopenEager() {
	b.t.Helper()
	b.reopen()
	b.eager()
}

// fewFiles is what a job leaves: small files, some of which must stay as they are.
func fewFiles(t *testing.T) func(dir string) {
	return func(dir string) {
		for i := range 10 {
			write(t, fmt.Sprintf("%s/d%d/small%d", dir, i%3, i), strings.Repeat(fmt.Sprint(i), 400*i+1))
		}
		write(t, dir+"/only/small/ones", "x")
		write(t, dir+"/empty", "")
		write(t, dir+"/d0/large", strings.Repeat("large ", 200_000))
		require.NoError(t, os.Link(dir+"/d1/small1", dir+"/d2/linked"))
		require.NoError(t, os.Symlink("d0/large", dir+"/symlink"))
		f, err := os.Create(dir + "/d0/sparse")
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("end"), 600_000)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
}

func (b *bench) placeOf(id snapshot.ID) *view.Layer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.layers[id].place()
}

func (b *bench) upper(id snapshot.ID, path string) string {
	return filepath.Join(b.dir, b.placeOf(id).Dir, path)
}

func (b *bench) waitPlace(id snapshot.ID, what string, is func(p *view.Layer) bool) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return is(b.placeOf(id)) }, waitMost, tick, what)
}

func (b *bench) waitGathered(ids ...snapshot.ID) {
	b.t.Helper()
	for _, id := range ids {
		b.waitPlace(id, "gathered", func(p *view.Layer) bool { return p.Gathered })
	}
}

func (b *bench) waitPruned(ids ...snapshot.ID) {
	b.t.Helper()
	for _, id := range ids {
		b.waitPlace(id, "pruned", func(p *view.Layer) bool { return p.Pruned })
	}
}

// requireGathered checks where the files of fewFiles are in the tree of id.
func (b *bench) requireGathered(id snapshot.ID) {
	b.t.Helper()
	m, err := b.Tree(b.t.Context(), id)
	require.NoError(b.t, err)
	for _, p := range []string{"d0/small0", "d1/small1", "d2/linked", "only/small/ones"} {
		e, ok := m.Find(p)
		require.True(b.t, ok, p)
		require.Positive(b.t, e.SourceAt, p)
	}
	for _, p := range []string{"d0/large", "d0/sparse"} {
		e, ok := m.Find(p)
		require.True(b.t, ok, p)
		require.Zero(b.t, e.SourceAt, p)
	}
}

// requirePruned checks what is left in the directory of a layer with fewFiles.
func (b *bench) requirePruned(id snapshot.ID) {
	b.t.Helper()
	for _, p := range []string{"d0/small0", "d1/small1", "d2/linked", "only"} {
		require.NoFileExists(b.t, b.upper(id, p))
		require.NoDirExists(b.t, b.upper(id, p))
	}
	for _, p := range []string{"d0/large", "d0/sparse"} {
		require.FileExists(b.t, b.upper(id, p))
	}
}

// requireWhole checks all that is stored of the layers in every way there is.
func (b *bench) requireWhole(ids ...snapshot.ID) {
	b.t.Helper()
	for _, id := range ids {
		require.NoError(b.t, b.Verify(b.t.Context(), id))
		b.requireTree(id)
		dir := filepath.Join(b.t.TempDir(), "restored")
		_, err := b.Restore(b.t.Context(), RestoreSpec{Snapshot: id, Dir: dir})
		require.NoError(b.t, err)
		require.Equal(b.t, digestOf(b.t, b.shown(id)), digestOf(b.t, scanHashed(b.t, dir)))
	}
	r, err := b.Scrub(b.t.Context(), ScrubOptions{})
	require.NoError(b.t, err)
	require.Empty(b.t, r.Damages)
	require.Empty(b.t, r.Suspect)
}

// A view that stands on the files keeps seeing them; the next one has them from the
// bundle; when the first is gone so are the files.
func TestGather(t *testing.T) {
	t.Parallel()
	wholeOrParts(t, testGather)
}

func testGather(t *testing.T, few int) {
	b := gatherBenchOf(t, few)
	one := b.job(fewFiles(t))
	old := b.spec(one.ID)
	a, err := b.Prepare(t.Context(), old)
	require.NoError(t, err)
	held, err := os.Open(a.Target + "/d0/small0")
	require.NoError(t, err)

	b.run()
	b.waitGathered(one.ID)
	b.requireGathered(one.ID)
	next := b.spec(one.ID)
	a2, err := b.Prepare(t.Context(), next)
	require.NoError(t, err)
	for _, dir := range []string{a.Target, a2.Target} {
		require.Equal(t, strings.Repeat("7", 2801), read(t, dir+"/d1/small7"))
		require.Equal(t, "x", read(t, dir+"/only/small/ones"))
		require.Equal(t, read(t, dir+"/d1/small1"), read(t, dir+"/d2/linked"))
	}
	time.Sleep(300 * time.Millisecond)
	require.False(t, b.placeOf(one.ID).Pruned)
	require.FileExists(t, b.upper(one.ID, "d0/small0"))

	var first [1]byte
	_, err = held.Read(first[:])
	require.NoError(t, err)
	require.Equal(t, "0", string(first[:]))
	require.NoError(t, held.Close())

	// What the first view becomes stands on the files too, for a while.
	write(t, a.Target+"/d0/small0", "changed")
	two, err := b.Seal(t.Context(), old.ID, nil)
	require.NoError(t, err)
	b.packed(two.ID)
	b.waitPruned(one.ID)
	b.requirePruned(one.ID)
	require.Equal(t, strings.Repeat("9", 3601), read(t, a2.Target+"/d0/small9"))
	require.Equal(t, strings.Repeat("large ", 200_000), read(t, a2.Target+"/d0/large"))
	write(t, a2.Target+"/d1/small4", "written to after that")
	three, err := b.Seal(t.Context(), next.ID, nil)
	require.NoError(t, err)
	b.packed(three.ID)
	b.requireWhole(one.ID, two.ID, three.ID)
	requireShows(t, b, two.ID, "d0/small0", "changed")

	// The same from disk alone.
	b.reopenEager()
	b.requireGathered(three.ID)
	b.requireWhole(one.ID, two.ID, three.ID)
}

func requireShows(t *testing.T, b *bench, id snapshot.ID, path, want string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "look")
	c, err := b.Mount(t.Context(), id, dir)
	require.NoError(t, err)
	require.Equal(t, want, read(t, dir+"/"+path))
	require.NoError(t, c.Close())
}

// Layers whose images and lists lead to files of others are led on, also through
// merges, and then nothing keeps the files.
func TestGatherChain(t *testing.T) {
	t.Parallel()
	wholeOrParts(t, testGatherChain)
}

func testGatherChain(t *testing.T, few int) {
	b := gatherBenchOf(t, few)
	one := b.job(fewFiles(t))
	left := b.job(func(dir string) {
		fewFiles(t)(dir + "/left")
		require.NoError(t, os.Chmod(dir+"/d0/small0", 0o600))
		require.NoError(t, os.Rename(dir+"/d1", dir+"/renamed"))
	}, one.ID)
	right := b.job(func(dir string) { fewFiles(t)(dir + "/right") }, one.ID)
	merged := b.job(func(dir string) { write(t, dir+"/more", "more") }, left.ID, right.ID)
	before := b.requireTree(merged.ID)
	ids := []snapshot.ID{one.ID, left.ID, right.ID, merged.ID}
	b.run()
	b.packed(ids...)
	b.waitPruned(one.ID, left.ID, right.ID)
	require.False(t, b.placeOf(merged.ID).Gathered, "too few files")
	require.Equal(t, before, b.requireTree(merged.ID))
	b.requireWhole(ids...)
	again := b.job(func(dir string) { write(t, dir+"/even", "more") }, right.ID, merged.ID)
	b.packed(again.ID)
	b.requireWhole(again.ID)

	b.reopenEager()
	b.requireWhole(append(ids, again.ID)...)
	for _, id := range []snapshot.ID{again.ID, merged.ID, right.ID, left.ID, one.ID} {
		require.NoError(t, b.MarkDurable(t.Context(), id))
		require.NoError(t, b.Reported(t.Context(), id))
	}
	require.ErrorIs(t, b.Remove(t.Context(), one.ID), snapshot.ErrBusy)
	r, err := b.Evict(t.Context(), EvictSpec{})
	require.NoError(t, err)
	require.Len(t, r.Evicted, 5, "%+v", r.Kept)
	left2, err := os.ReadDir(filepath.Join(b.dir, "views"))
	require.NoError(t, err)
	require.Empty(t, left2)
	requireEmptyDir(t, filepath.Join(b.dir, "manifests"))
}

// The process dies between two steps: the next one finishes.
func TestDeathInGathering(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	steps := []struct {
		name string
		die  func(t *testing.T, b *bench, g view.Gatherer, l *layer)
	}{
		{"after the bundle", func(t *testing.T, b *bench, g view.Gatherer, l *layer) {
			m, err := b.Tree(ctx, l.info.ID)
			require.NoError(t, err)
			_, _, err = g.Gather(ctx, l.place(), view.TreeOf(m))
			require.NoError(t, err)
		}},
		{"after the image", func(t *testing.T, b *bench, g view.Gatherer, l *layer) {
			m, err := b.Tree(ctx, l.info.ID)
			require.NoError(t, err)
			p, to, err := g.Gather(ctx, l.place(), view.TreeOf(m))
			require.NoError(t, err)
			_, err = g.ImageTree(ctx, p, l.place(), to)
			require.NoError(t, err)
		}},
		{"before the row", func(t *testing.T, b *bench, g view.Gatherer, l *layer) {
			_, err := b.db.Exec("CREATE TRIGGER die BEFORE UPDATE ON layers BEGIN SELECT RAISE(ABORT, 'dead'); END")
			require.NoError(t, err)
			require.ErrorContains(t, b.gather(ctx, g, l), "dead")
			_, err = b.db.Exec("DROP TRIGGER die")
			require.NoError(t, err)
		}},
		{"after the image that leads on", func(t *testing.T, b *bench, g view.Gatherer, l *layer) {
			require.NoError(t, b.gather(ctx, g, l))
			o := b.layers[b.List()[1].ID]
			m, err := b.Tree(ctx, o.info.ID)
			require.NoError(t, err)
			p, err := g.Image(ctx, o.place(), o.place(), m)
			require.NoError(t, err)
			require.Zero(t, p.SmallIn(l.place()))
		}},
		{"after the row", func(t *testing.T, b *bench, g view.Gatherer, l *layer) {
			require.NoError(t, b.gather(ctx, g, l))
		}},
		{"in the middle of pruning", func(t *testing.T, b *bench, g view.Gatherer, l *layer) {
			require.NoError(t, b.gather(ctx, g, l))
			m, err := b.Tree(ctx, l.info.ID)
			require.NoError(t, err)
			some := &snapshot.Manifest{Entries: m.Entries[:len(m.Entries)/2]}
			require.NoError(t, g.Prune(ctx, l.place(), view.TreeOf(some)))
		}},
		{"before the row of pruning", func(t *testing.T, b *bench, g view.Gatherer, l *layer) {
			require.NoError(t, b.gather(ctx, g, l))
			m, err := b.Tree(ctx, l.info.ID)
			require.NoError(t, err)
			require.NoError(t, g.Prune(ctx, l.place(), view.TreeOf(m)))
		}},
	}
	for i, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			b := gatherBenchOf(t, i%2*3) // every other one in parts
			b.gathering.least = 1 << 30
			one := b.job(fewFiles(t))
			two := b.job(func(dir string) { write(t, dir+"/two", "two") }, one.ID)
			b.run()
			b.packed(one.ID, two.ID)
			b.waitPlace(one.ID, "imaged", func(p *view.Layer) bool { return p.Image != "" && len(p.Lowers) == 0 })
			b.waitPlace(two.ID, "imaged", func(p *view.Layer) bool { return p.Image != "" && len(p.Lowers) == 0 })
			b.stop()
			b.stop = nil
			if g := b.driver2(); strings.Contains(s.name, "prun") {
				// Nothing leads to the files any more when they are deleted.
				require.NoError(t, b.gather(ctx, g, b.layers[one.ID]))
				require.NoError(t, b.leadOn(ctx, g, b.layers[two.ID]))
			}
			before := b.requireTree(two.ID)
			s.die(t, b, b.driver2(), b.layers[one.ID])
			b.reopen()
			require.Equal(t, before, b.requireTree(two.ID))
			b.requireWhole(one.ID, two.ID)
			three := b.job(func(dir string) { write(t, dir+"/three", "three") }, two.ID)
			b.reopenEager()
			b.run()
			b.waitPruned(one.ID)
			b.packed(three.ID)
			b.requirePruned(one.ID)
			b.requireGathered(two.ID)
			require.Equal(t, before, b.requireTree(two.ID))
			b.requireWhole(one.ID, two.ID, three.ID)
		})
	}
}

func (b *bench) driver2() view.Gatherer { return b.Store.driver.(view.Gatherer) }

// On a full disk the layer stays as it was.
func TestGatherOnFullDisk(t *testing.T) {
	disk := smallDisk(t, 64)
	b := benchAt(t, disk+"/store", view.NameErofs)
	b.disk = disk
	b.gathering.least = 1 << 30
	one := b.job(fewFiles(t))
	b.run()
	b.packed(one.ID)
	b.waitPlace(one.ID, "imaged", func(p *view.Layer) bool { return p.Image != "" && len(p.Lowers) == 0 })
	b.stop()
	b.stop = nil
	was := b.placeOf(one.ID)
	before := b.requireTree(one.ID)
	fill(t, disk+"/ballast")
	require.ErrorIs(t, b.gather(t.Context(), b.driver2(), b.layers[one.ID]), syscall.ENOSPC)
	require.Equal(t, was, b.placeOf(one.ID))
	require.NoFileExists(t, b.dir+"/views/"+string(one.ID)+"/c"+string(one.ID)+"/bundle")
	requireEmptyDir(t, b.dir+"/trash")
	require.NoError(t, os.Remove(disk+"/ballast"))
	require.Equal(t, before, b.requireTree(one.ID))
	require.NoError(t, b.gather(t.Context(), b.driver2(), b.layers[one.ID]))
	b.requireGathered(one.ID)
	b.requireWhole(one.ID)
}

// What was gathered and pruned is repaired as anything else is.
func TestGatheredIsRepaired(t *testing.T) {
	b := gatherBench(t)
	one := b.job(fewFiles(t))
	two := b.job(func(dir string) { write(t, dir+"/two", "two") }, one.ID)
	b.run()
	b.packed(one.ID, two.ID)
	b.waitPruned(one.ID)
	before := b.requireTree(two.ID)
	e, ok := must(b.Tree(t.Context(), one.ID)).Find("d1/small7")
	require.True(t, ok)
	in, err := b.Lookup(one.ID)
	require.NoError(t, err)
	for what, damage := range map[string]func(){
		"content":  func() { flipFile(t, e.Source, e.SourceAt+5) },
		"sources":  func() { flipFile(t, b.srcPath(one.ID), 60) },
		"index":    func() { flipFile(t, b.indexPath(in.Index), 60) },
		"manifest": func() { flipFile(t, b.manifestPath(in.Manifest), 60) },
		"image":    func() { flipFile(t, filepath.Join(b.dir, b.placeOf(one.ID).Image), 2000) },
	} {
		damage()
		r, err := b.Scrub(t.Context(), ScrubOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, r.Damages, what)
		require.Zero(t, r.Left(), "%s: %+v", what, r.Damages)
		require.Equal(t, what, r.Damages[0].What)
		b.requireWhole(one.ID, two.ID)
		require.Equal(t, before, b.requireTree(two.ID))
	}
	b.trees.drop(one.ID)
	flipFile(t, b.srcPath(one.ID), 60)
	b.requireGathered(one.ID)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
