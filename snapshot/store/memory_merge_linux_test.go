package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// A merge costs next to nothing for an entry that is the same in all trees. Where all
// differs it is this for one of each parent: two in the image of the view.
func TestMemoryPerEntryOfMerge(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	// more than is kept of the first reading
	most := map[string]float64{
		"alike: view": 150, "alike: behind": 250, "all differs: view": 700, "all differs: behind": 400,
	}
	memorySlopes(t, 20_000, 40_000, most, func(n int, note func(what string, fn func())) {
		b := newBench(t, view.NameErofs)
		b.close()
		b.o.CacheEntries = 100
		b.o.Driver = func(r string) (view.Driver, error) {
			return view.Open(view.NameErofs, r, view.Options{Owners: true, ScratchFrom: 1})
		}
		b.open()
		b.fewer = 512
		behind := func(id snapshot.ID) {
			l := b.layers[id]
			require.NoError(t, b.image(t.Context(), l))
			b.sync(t.Context(), l)
			require.NoError(t, b.pack(t.Context(), l))
		}
		job := func(f func(dir string), on ...snapshot.ID) snapshot.ID { return b.job(f, on...).ID }
		one := job(func(dir string) { bushes(t, dir, n) })
		behind(one)
		left := job(func(dir string) { write(t, dir+"/left", "1") }, one)
		right := job(func(dir string) { write(t, dir+"/right", "2") }, one)
		other := job(func(dir string) { bushes(t, dir+"/other", n) })
		for _, id := range []snapshot.ID{left, right, other} {
			behind(id)
		}
		for what, ids := range map[string][]snapshot.ID{"alike": {left, right}, "all differs": {one, other}} {
			var both snapshot.ID
			note(what+": view", func() { both = job(func(string) {}, ids...) })
			note(what+": behind", func() { behind(both) })
		}
	})
}
