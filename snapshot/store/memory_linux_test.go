package store

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// peak runs fn and returns by how much more was in use at most than before, each time
// that the collector looked: no garbage counts, and no time.
func peak(fn func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(15))
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	inUse := func() int64 {
		metrics.Read(live)
		return int64(live[0].Value.Uint64())
	}
	runtime.GC()
	runtime.GC() // the second empties pools
	start := inUse()
	done, most := make(chan struct{}), make(chan int64)
	go func() {
		m := start
		for {
			m = max(m, inUse())
			select {
			case <-done:
				most <- m
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	fn()
	close(done)
	return <-most - start
}

// bushes makes n files of a few bytes, each its own, 50 to a directory.
func bushes(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		d := fmt.Sprintf("%s/packages/module-%05d/internal", dir, i/50)
		if i%50 == 0 {
			require.NoError(t, os.MkdirAll(d, 0o755))
		}
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/some_source_file_%02d.go", d, i%50), fmt.Appendf(nil, "%d\n", i), 0o600))
	}
}

// memorySlopes measures, of a tree of few and of many entries, what it takes in memory at
// most while the steps that run notes are done, and how much that grows with each entry. A
// step that grows by more than most says gets a second chance: what else the process did in
// that moment counts, too. Of a step without a bound it only tells.
func memorySlopes(t *testing.T, few, many int, most map[string]float64, run func(n int, note func(what string, fn func()))) {
	if testing.Short() {
		t.Skip("only the slope between many and very many says something")
	}
	var over []string
	for range 2 {
		used := map[string][2]int64{}
		for k, n := range []int{few, many} {
			run(n, func(what string, fn func()) {
				u := used[what]
				u[k] = peak(fn)
				used[what] = u
			})
		}
		over = nil
		for _, what := range slices.Sorted(maps.Keys(used)) {
			u := used[what]
			per := float64(u[1]-u[0]) / float64(many-few)
			t.Logf("%s: %.0f bytes per entry, %d KiB at %d", what, per, u[1]>>10, many)
			if bound, ok := most[what]; ok && per > bound {
				over = append(over, fmt.Sprintf("%s: %.0f bytes per entry, more than %.0f", what, per, bound))
			}
		}
		if over == nil {
			break
		}
	}
	require.Empty(t, over)
}

// What a tree of very many files costs in memory grows with their number by no more than
// this for each: 2 million of them have to fit in half a gigabyte, with what the
// collector leaves lying about.
func TestMemoryPerEntry(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	most := map[string]float64{
		"create": 190, "create again": 200, "create on a base": 200, "compare": 80, "verify": 180, "restore": 170,
	}
	memorySlopes(t, 10_000, 50_000, most, func(n int, note func(what string, fn func())) {
		b := newBench(t, view.NameCopy)
		b.close()
		b.o.CacheEntries = 100
		b.open()
		b.fewer = 512
		home := t.TempDir()
		dir := filepath.Join(home, "d")
		bushes(t, dir, n)
		var one, two, three snapshot.ID
		note("create", func() { one = b.create(dir, "").ID })
		note("create again", func() { two = b.create(dir, "").ID })
		require.NoError(t, b.Drop(t.Context(), two))
		write(t, filepath.Join(dir, "one more"), "x")
		note("create on a base", func() { three = b.create(dir, one).ID })
		note("compare", func() {
			n := 0
			require.NoError(t, b.Compare(t.Context(), one, three, func(Difference) error { n++; return nil }))
			require.Equal(t, 2, n) // the root, and what is new
		})
		note("verify", func() { require.NoError(t, b.Verify(t.Context(), one)) })
		note("restore", func() {
			_, err := b.Restore(t.Context(), RestoreSpec{Snapshot: three, Dir: filepath.Join(home, "to")})
			require.NoError(t, err)
		})
	})
}
