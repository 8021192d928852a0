package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// leanCopies is a store of copies that has no list of a tree in memory.
func leanCopies(t *testing.T) *bench {
	b := newBench(t, view.NameCopy)
	b.close()
	b.o.CacheEntries, b.few, b.o.Workers = 100, 512, 1 // of more the buffers vary
	b.open()
	return b
}

// Where every view is a copy of a whole tree, making and sealing one takes memory for its
// entries by no more than this for each, and what is behind goes through them one by one.
func TestMemoryPerEntryOfCopy(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	// What packs and unpacks has buffers beside, of which so few entries make no difference:
	// TestMemoryOfLargeCopy tells of these.
	most := map[string]float64{
		"first view": 50, "first seal": 300, "second view": 80, "second seal": 400, "renamed view": 80, "renamed seal": 600,
	}
	memorySlopes(t, 2_000, 8_000, most, func(n int, note func(what string, fn func())) {
		b := leanCopies(t)
		_, ok := b.Driver().(view.Streamer)
		require.True(t, ok, "it unpacks trees in memory alone")
		job := func(what string, fn func(dir string), on ...snapshot.ID) snapshot.ID {
			p := b.spec(on...)
			var dir string
			note(what+" view", func() {
				a, err := b.Prepare(t.Context(), p)
				require.NoError(t, err)
				dir = a.Target
			})
			fn(dir)
			note(what+" seal", func() {
				in, err := b.Seal(t.Context(), p.ID, nil)
				require.NoError(t, err)
				require.Equal(t, Sealed, in.State, in.Err)
			})
			b.sync(t.Context(), b.layers[p.ID])
			require.NotNil(t, b.long(t.Context(), b.layers[p.ID]), "its tree is in memory")
			note(what+" pack", func() { require.NoError(t, b.pack(t.Context(), b.layers[p.ID])) })
			return p.ID
		}
		one := job("first", func(dir string) { bushes(t, dir, n) })
		two := job("second", func(dir string) { write(t, dir+"/one more", "x") }, one)
		job("renamed", func(dir string) { require.NoError(t, os.Rename(dir+"/packages", dir+"/elsewhere")) }, two)
		r, dst := newRemote(t), leanCopies(t)
		for i, id := range []snapshot.ID{one, two} {
			spec := r.upload(b, id)
			note([]string{"import", "import on it"}[i], func() { require.NoError(t, dst.Import(t.Context(), spec, r.open, nil)) })
		}
	})
}

// The same at full size, as the system sees it: TEST_MEMORY_ENTRIES=1000000.
func TestMemoryOfLargeCopy(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("TEST_MEMORY_ENTRIES"))
	if err != nil {
		t.Skip("TEST_MEMORY_ENTRIES says how many files; it takes minutes")
	}
	testenv.Require(t, testenv.Linux, testenv.Root)
	b := newBench(t, view.NameCopy)
	last := cpuSeconds(t)
	said := func(what string) {
		now := cpuSeconds(t)
		t.Logf("%d: %s: %d MB resident at most, %.2f s of CPU time", n, what, residentPeak(t)>>20, now-last)
		last = now
	}
	job := func(what string, fn func(dir string), on ...snapshot.ID) snapshot.ID {
		p := b.spec(on...)
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		said(what + ", prepared")
		fn(a.Target)
		in, err := b.Seal(t.Context(), p.ID, nil)
		require.NoError(t, err)
		require.Equal(t, Sealed, in.State, in.Err)
		said(what + ", sealed")
		b.packed(p.ID)
		said(what + ", packed")
		return p.ID
	}
	one := job("a job", func(dir string) { bushes(t, dir, n) })
	two := job("a second job", func(dir string) {
		for i := range 100 {
			write(t, filepath.Join(dir, "new", strconv.Itoa(i)), fmt.Sprint("new ", i))
		}
	}, one)
	r, dst := newRemote(t), newBench(t, view.NameCopy)
	for _, id := range []snapshot.ID{one, two} {
		require.NoError(t, dst.Import(t.Context(), r.upload(b, id), r.open, nil))
		said("import")
	}
	to := filepath.Join(t.TempDir(), "to")
	_, err = dst.Restore(t.Context(), RestoreSpec{Snapshot: two, Dir: to})
	require.NoError(t, err)
	said("restore")
}
