package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// someFiles writes n small files below dir/name.
func someFiles(t testing.TB, dir, name string, n int) {
	for i := range n {
		write(t, fmt.Sprintf("%s/%s/%d", dir, name, i), name+fmt.Sprint(i))
	}
}

// twoSides are a base and two jobs on it, with enough files that a merge of them is
// worth an image.
func twoSides(t testing.TB, b *bench) (base, left, right Info) {
	base = b.job(func(dir string) { someFiles(t, dir, "base", 30) })
	left = b.job(func(dir string) { someFiles(t, dir, "left", 60); require.NoError(t, os.Remove(dir+"/base/1")) }, base.ID)
	right = b.job(func(dir string) { someFiles(t, dir, "right", 60); write(t, dir+"/base/2", "by right") }, base.ID)
	return base, left, right
}

func (b *bench) planOf(p PrepareSpec) *plan {
	b.t.Helper()
	pl, err := b.plan(b.t.Context(), &p)
	require.NoError(b.t, err)
	return pl
}

func requireBothSides(t *testing.T, dir string) {
	t.Helper()
	require.Equal(t, "left59", read(t, dir+"/left/59"))
	require.Equal(t, "right59", read(t, dir+"/right/59"))
	require.Equal(t, "by right", read(t, dir+"/base/2"))
	require.Equal(t, "base0", read(t, dir+"/base/0"))
	require.NoFileExists(t, dir+"/base/1")
}

// The second job that needs the same two, and the retry of the first, get what was
// merged then.
func TestFaninAgain(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		_, left, right := twoSides(t, b)
		p := b.spec(left.ID, right.ID)
		first, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		requireBothSides(t, first.Target)
		require.NoError(t, b.Discard(t.Context(), p.ID))
		require.Len(t, b.merges.list, 1)

		p = b.spec(left.ID, right.ID)
		pl := b.planOf(p)
		require.Same(t, b.merges.list[0], pl.merge)
		require.True(t, pl.again)
		if driver == view.NameErofs {
			require.NotEmpty(t, pl.key)
		}
		again, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		requireBothSides(t, again.Target)
		require.True(t, again.Merged)
		require.Equal(t, []any{first.TreeBytes, first.MTimeDivergence}, []any{again.TreeBytes, again.MTimeDivergence})
		one, err := b.Seal(t.Context(), p.ID, nil)
		require.NoError(t, err)

		b.merges.forget(b.layers[left.ID])
		require.Zero(t, b.merges.changes)
		two := b.job(func(dir string) { requireBothSides(t, dir) }, left.ID, right.ID)
		require.Equal(t, b.requireTree(two.ID), b.requireTree(one.ID), "merged anew it is the same")
		b.packed(one.ID, two.ID)
		require.Equal(t, b.requireTree(two.ID), b.requireTree(one.ID))
	})
}

// Another question has another answer, which is found again as well.
func TestFaninAgainAsksTheSame(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	base := b.job(nil)
	wr := func(dir string) { write(t, dir+"/same", "the very same") }
	one, two := b.job(wr, base.ID), b.job(wr, base.ID)
	time1 := func(ids ...snapshot.ID) int64 {
		p := b.spec(ids...)
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		fi, err := os.Stat(a.Target + "/same")
		require.NoError(t, err)
		require.NoError(t, b.Discard(t.Context(), p.ID))
		return fi.ModTime().UnixNano()
	}
	a, c := time1(one.ID, two.ID), time1(two.ID, one.ID)
	require.NotEqual(t, a, c, "of equal files the first parent's time is taken")
	require.Equal(t, a, time1(one.ID, two.ID))
	require.Equal(t, c, time1(two.ID, one.ID))
	require.Len(t, b.merges.list, 2)

	for name, change := range map[string]func(p *PrepareSpec){
		"order":  func(p *PrepareSpec) { p.Order = true },
		"prefer": func(p *PrepareSpec) { p.Prefer = []tree.Prefer{{Glob: "x", Job: "a"}} },
		"atomic": func(p *PrepareSpec) { p.Atomic = []string{"x"} },
		"caches": func(p *PrepareSpec) { p.Caches = []string{"x"} },
		"the jobs": func(p *PrepareSpec) {
			p.Prefer, p.Inputs[0].Job = []tree.Prefer{{Glob: "x", Job: "a"}}, "z"
		},
	} {
		p := b.spec(one.ID, two.ID)
		change(&p)
		require.False(t, b.planOf(p).again, name)
		require.True(t, b.planOf(p).again, name)
	}
	require.Len(t, b.merges.list, 7)

	// A conflict is found anew each time.
	x := b.job(func(dir string) { write(t, dir+"/f", "x") }, base.ID)
	y := b.job(func(dir string) { write(t, dir+"/f", "yy") }, base.ID)
	for range 2 {
		_, err := b.Prepare(t.Context(), b.spec(x.ID, y.ID))
		var conflict *snapshot.ConflictError
		require.ErrorAs(t, err, &conflict)
	}
	require.Len(t, b.merges.list, 7)
}

// An input that went took its merges along, and one that came back is another.
func TestFaninAgainForgets(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	base, left, right := twoSides(t, b)
	b.planOf(b.spec(left.ID, right.ID))
	b.planOf(b.spec(left.ID, base.ID, right.ID)) // the same: base is contained in both
	require.Len(t, b.merges.list, 1)
	old := b.merges.list[0]
	require.NoError(t, b.Drop(t.Context(), right.ID))
	require.Empty(t, b.merges.list)
	require.Zero(t, b.merges.changes)

	b.merges.put(old)
	_, err := b.Prepare(t.Context(), b.spec(left.ID, right.ID))
	require.ErrorContains(t, err, "not held")
	again := &layer{info: old.inputs[1].info}
	r, _ := b.merges.find(old.of, []*layer{old.inputs[0], again}, 0)
	require.Nil(t, r)
}

// So many are kept, and so many changes of them.
func TestFaninAgainIsBounded(t *testing.T) {
	var c merges
	for i := range 3 * mostMerges {
		c.put(&mergeResult{of: snapshot.Digest{byte(i)}, n: 10})
	}
	require.Len(t, c.list, mostMerges)
	require.Equal(t, 10*mostMerges, c.changes)
	c.put(&mergeResult{of: snapshot.Digest{1, 1}, n: mostMergeChanges - 15})
	require.Len(t, c.list, 2)
	c.put(&mergeResult{of: snapshot.Digest{1, 2}, n: mostMergeChanges + 1})
	require.Len(t, c.list, 2)
	require.LessOrEqual(t, c.changes, mostMergeChanges)
	c.put(&mergeResult{of: snapshot.Digest{1, 1}})
	require.Len(t, c.list, 2)
	require.Equal(t, 10, c.changes)
}

// Room is made by what is kept of images before a layer goes.
func TestEvictDropsImages(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	b := newBench(t, view.NameErofs)
	_, left, right := twoSides(t, b)
	p := b.spec(left.ID, right.ID)
	_, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, b.Discard(t.Context(), p.ID))
	images := func() int {
		names, err := os.ReadDir(filepath.Join(b.dir, "images"))
		require.NoError(t, err)
		return len(names)
	}
	require.Equal(t, 1, images())
	_, err = b.Evict(t.Context(), EvictSpec{DryRun: true})
	require.NoError(t, err)
	_, err = b.Evict(t.Context(), EvictSpec{Useless: true})
	require.NoError(t, err)
	_, err = b.Evict(t.Context(), EvictSpec{Enough: func(int64) bool { return true }})
	require.NoError(t, err)
	require.Equal(t, 1, images())
	_, err = b.Evict(t.Context(), EvictSpec{})
	require.NoError(t, err)
	require.Zero(t, images())
	b.jobSpec(b.spec(left.ID, right.ID), func(dir string) { requireBothSides(t, dir) })
}

// BenchmarkFaninAgain attaches a merge of two jobs on 100,000 files: what is needed for
// the first time, and again. Where few changes come together they are shown by a fix-up
// layer first, and by an image when the same merge is wanted again.
func BenchmarkFaninAgain(b *testing.B) {
	testenv.Require(b, testenv.Linux, testenv.Root, testenv.Overlay)
	s := newBench(b, view.NameErofs)
	base := s.job(func(dir string) { makeFiles(b, dir, 0, 100_000) }).ID
	big := s.job(func(dir string) { someFiles(b, dir, "big", 12_000) }, base).ID
	for _, files := range []int{2000, 10_000} {
		side := s.job(func(dir string) { someFiles(b, dir, "side", files) }, base).ID
		s.packed(base, big, side)
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			times := make([][]time.Duration, 3)
			for b.Loop() {
				s.merges.forget(s.layers[side])
				s.Store.driver.(view.Cacher).DropCached()
				for i := range times {
					p := s.spec(big, side)
					a, err := s.Prepare(b.Context(), p)
					require.NoError(b, err)
					times[i] = append(times[i], a.Elapsed)
					require.NoError(b, s.Discard(b.Context(), p.ID))
				}
			}
			for i, name := range []string{"first", "second", "third"} {
				report(b, name, times[i])
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
