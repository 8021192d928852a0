package store

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// What is done with a large unpacked tree grows with its entries by no more than this for
// each: fetching it, on nothing and as a chain, on what is held, showing all of it to be
// in order, bringing it back, and gathering what a job left.
func TestMemoryPerEntryUnpacked(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	most := map[string]float64{
		"import": 500, "import on it": 400, "import of a chain": 450, "verify": 600, "scrub": 600,
		"compare": 180, "restore": 250, "gather": 450, "prune": 180,
	}
	memorySlopes(t, 10_000, 50_000, most, func(n int, note func(what string, fn func())) {
		lean := func() *bench {
			b := newBench(t, view.NameErofs)
			b.close()
			b.o.CacheEntries, b.few = 100, 512
			b.open()
			return b
		}
		src := lean()
		dir := filepath.Join(t.TempDir(), "d")
		bushes(t, dir, n)
		line := []snapshot.ID{src.create(dir, "").ID}
		for i := range 2 {
			write(t, filepath.Join(dir, fmt.Sprint("one more ", i)), fmt.Sprint(i))
			line = append(line, src.create(dir, line[i]).ID)
		}
		r := newRemote(t)
		var chain []ImportSpec
		for _, id := range line {
			chain = append(chain, r.upload(src, id))
		}
		one, all := lean(), lean()
		note("import", func() { require.NoError(t, one.Import(t.Context(), chain[0], r.open, nil)) })
		note("import on it", func() { require.NoError(t, one.Import(t.Context(), chain[1], r.open, nil)) })
		note("import of a chain", func() { require.NoError(t, all.ImportChain(t.Context(), chain, r.open, nil)) })
		note("verify", func() { require.NoError(t, one.Verify(t.Context(), line[0])) })
		note("scrub", func() {
			r, err := one.Scrub(t.Context(), ScrubOptions{IDs: line[:1]})
			require.NoError(t, err)
			require.Empty(t, r.Damages)
			require.Equal(t, 1, r.Layers)
		})
		note("compare", func() {
			n := 0
			require.NoError(t, one.Compare(t.Context(), line[0], line[1], func(Difference) error { n++; return nil }))
			require.Equal(t, 2, n)
		})
		note("restore", func() {
			_, err := one.Restore(t.Context(), RestoreSpec{Snapshot: line[0], Dir: filepath.Join(t.TempDir(), "to")})
			require.NoError(t, err)
		})
		job := lean()
		l := job.layers[job.job(func(dir string) { bushes(t, dir, n) }).ID]
		require.NoError(t, job.image(t.Context(), l))
		job.sync(t.Context(), l)
		require.NoError(t, job.pack(t.Context(), l))
		job.trees.drop(l.info.ID)
		note("gather", func() { require.NoError(t, job.gather(t.Context(), job.driver2(), l)) })
		require.True(t, l.place().Gathered)
		note("prune", func() { require.NoError(t, job.prune(t.Context(), job.driver2(), l)) })
	})
}

// What gathering and merging need of memory at full size, TEST_MEMORY_ENTRIES=2000000. It
// says how much, as the system sees it.
func TestMemoryOfLargeUnpacked(t *testing.T) {
	b, n := veryLarge(t)
	said := func(what string) { t.Logf("%d: %s: %d MB resident at most", n, what, residentPeak(t)>>20) }
	one := b.job(func(dir string) { bushes(t, dir, n) })
	b.behindSeal(one.ID)
	b.trees.drop(one.ID)
	said("before")
	l := b.layers[one.ID]
	require.NoError(t, b.gather(t.Context(), b.driver2(), l))
	said("gather")
	require.NoError(t, b.prune(t.Context(), b.driver2(), l))
	said("prune")
	b.reopen()
	left := b.job(func(dir string) { write(t, dir+"/left", "1") }, one.ID)
	right := b.job(func(dir string) { write(t, dir+"/right", "2") }, one.ID)
	said("two jobs on it")
	b.job(func(dir string) { write(t, dir+"/both", "3") }, left.ID, right.ID)
	said("a merge of them, and a view")
}
