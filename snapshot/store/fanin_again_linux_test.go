package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// Files that moved since are shown from where they are now.
func TestFaninAgainAfterGathering(t *testing.T) {
	b := gatherBench(t)
	_, left, right := twoSides(t, b)
	show := func() {
		p := b.spec(left.ID, right.ID)
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		requireBothSides(t, a.Target)
		require.NoError(t, b.Discard(t.Context(), p.ID))
	}
	show()
	require.NotEmpty(t, b.merges.list[0].key)
	was := b.merges.list[0]
	b.run()
	b.packed(left.ID, right.ID)
	b.waitPruned(left.ID, right.ID)
	for range 2 {
		show()
		require.Same(t, was, b.merges.list[0], "it was not merged again")
	}
	require.NotEmpty(t, b.merges.list[0].key)
	changes, err := b.relocated(t.Context(), b.merges.list[0].changes).List()
	require.NoError(t, err)
	for _, ch := range changes {
		if e := ch.Entry; e.Type == snapshot.TypeFile && e.Size > 0 {
			require.Positive(t, e.SourceAt, e.Path)
		}
	}
}
