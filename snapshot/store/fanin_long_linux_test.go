package store

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// A layer whose view showed a merge is the same, be the trees in memory or not, and so is
// the merge: of layers that are packed or not, and of one that is such a layer itself.
func TestLongTreeOfMerge(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	lines := 4
	if testing.Short() {
		lines = 1
	}
	for seed := range lines {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			b := newBench(t, view.NameErofs)
			rnd := rand.New(rand.NewPCG(uint64(seed), 78))
			var line []snapshot.ID
			job := func(on ...snapshot.ID) snapshot.ID {
				p := b.spec(on...)
				p.Order = true
				in := b.jobSpec(p, func(dir string) {
					j := &scribbler{t, rnd, dir}
					for range 15 {
						j.step()
					}
				})
				require.Equal(t, Sealed, in.State, in.Err)
				line = append(line, in.ID)
				if rnd.IntN(3) == 0 {
					b.packLine(line, seed%2 == 0)
				}
				return in.ID
			}
			base := job()
			left, right := job(base), job(base)
			both := job(left, right)
			other := job(base)
			b.requireSameMerge(both, other)
			job(job(both, other), right)
			b.packLine(line, false)
		})
	}
}

// requireSameMerge merges with trees in memory and without.
func (b *bench) requireSameMerge(ids ...snapshot.ID) {
	b.t.Helper()
	var want []snapshot.Change
	for _, fewer := range []int{0, 3} {
		b.forgetTrees()
		b.fewer = fewer
		p := b.spec(ids...)
		p.Order = true
		merged, err := b.merge(b.t.Context(), &p, b.graph(&p), ids)
		require.NoError(b.t, err)
		for i := range ids {
			changes, err := merged.Changes(i).List()
			require.NoError(b.t, err)
			require.Len(b.t, changes, merged.Changed[i])
			if i > 0 {
				continue
			}
			if fewer == 0 {
				want = changes
			}
			require.Equal(b.t, want, changes)
		}
	}
	b.fewer = 0
	b.forgetTrees()
}
