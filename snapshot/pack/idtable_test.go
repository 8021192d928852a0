package pack

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// A table finds what a map finds.
func TestIDTable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var list []snapshot.Digest
		table := newIDTable(rapid.IntRange(0, 40).Draw(rt, "room"), func(i int) *snapshot.Digest { return &list[i] })
		want := map[snapshot.Digest]int{}
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, 300), 0, 400).Draw(rt, "ids") {
			id := snapshot.Digest{byte(n), byte(n >> 8), 31: byte(n)}
			at, ok := table.find(&id)
			first, had := want[id]
			require.Equal(rt, had, ok)
			if had {
				require.Equal(rt, first, at)
			} else {
				want[id] = i
			}
			list = append(list, id)
			require.Equal(rt, !had, table.add(i))
		}
		for id, i := range want {
			at, ok := table.find(&id)
			require.True(rt, ok)
			require.Equal(rt, i, at)
		}
	})
}
