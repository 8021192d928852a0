package store

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// A merge costs next to nothing for an entry that is the same in all trees. Where all
// differs it is this for one of each parent: two in the image of the view.
func TestMemoryPerEntryOfMerge(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	if testing.Short() {
		t.Skip("only the slope between many and very many says something")
	}
	const few, many = 20_000, 40_000 // more than is kept of the first reading
	used := map[string][2]int64{}
	for k, n := range []int{few, many} {
		b := newBench(t, view.NameErofs)
		b.close()
		b.o.CacheEntries = 100
		b.o.Driver = func(r string) (view.Driver, error) {
			return view.Open(view.NameErofs, r, view.Options{Owners: true, ScratchFrom: 1})
		}
		b.open()
		b.fewer = 512
		note := func(what string, fn func()) {
			u := used[what]
			u[k] = peak(fn)
			used[what] = u
		}
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
	}
	for what, most := range map[string]float64{
		"alike: view": 150, "alike: behind": 250, "all differs: view": 700, "all differs: behind": 400,
	} {
		u := used[what]
		per := float64(u[1]-u[0]) / (many - few)
		t.Logf("%s: %.0f bytes per entry, %d KiB at %d", what, per, u[1]>>10, many)
		assert.Less(t, per, most, what)
	}
}
