package pack

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

func TestEachEntryIsReadManifest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := genManifest(rt)
		b, d := encodeManifest(rt, m)
		i := 0
		err := EachEntry(b, d, func(e *snapshot.Entry) error {
			require.True(rt, m.Entries[i].Equal(e), "entry %d:\n%+v\n%+v", i, m.Entries[i], *e)
			i++
			return nil
		})
		require.NoError(rt, err)
		require.Equal(rt, len(m.Entries), i)

		bad := slices.Clone(b)
		bad[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		var corrupt *snapshot.CorruptError
		require.ErrorAs(rt, EachEntry(bad, d, func(*snapshot.Entry) error { return nil }), &corrupt)
		require.ErrorAs(rt, EachEntry(b[:rapid.IntRange(0, len(b)-1).Draw(rt, "cut")], d, func(*snapshot.Entry) error { return nil }), &corrupt)
		stop := errors.New("enough")
		require.ErrorIs(rt, EachEntry(b, d, func(*snapshot.Entry) error { return stop }), stop)
	})
}
