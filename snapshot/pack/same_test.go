package pack

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// cutAnyhow gives e chunks that nobody would choose.
func cutAnyhow(rt *rapid.T, e *snapshot.Entry, content []byte) {
	k := newKeyed(testKey)
	e.Chunks = []snapshot.Chunk{}
	for off := 0; off < len(content); {
		n := min(len(content)-off, rapid.IntRange(1, 900_000).Draw(rt, "len"))
		if p := content[off : off+n]; !bytes.Equal(p, make([]byte, n)) || rapid.Bool().Draw(rt, "zeros, too") {
			e.Chunks = append(e.Chunks, snapshot.Chunk{Off: int64(off), Len: int64(n), ID: k.id(p)})
		}
		off += n
	}
}

// Same is right whatever is known of the two files, and however they are cut.
func TestSame(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		before, after, _, _ := genEdited(rt)
		if rapid.Bool().Draw(rt, "equal") {
			after = bytes.Clone(before)
		}
		entry := func(content []byte) *snapshot.Entry {
			e := w.file("f", content).Entry
			switch rapid.IntRange(0, 2).Draw(rt, "known") {
			case 1:
				require.NoError(rt, Hash(t.Context(), testKey, &e))
			case 2:
				cutAnyhow(rt, &e, content)
			}
			return &e
		}
		a, b := entry(before), entry(after)
		defer os.Remove(a.Source)
		defer os.Remove(b.Source)
		x, y := *a, *b
		x.Chunks, y.Chunks = slices.Clone(a.Chunks), slices.Clone(b.Chunks)
		if b.Hashed() && rapid.Bool().Draw(rt, "nowhere to read b") {
			b.Source, y.Source = "", ""
		}
		want := bytes.Equal(before, after)
		for _, p := range [][2]*snapshot.Entry{{a, b}, {b, a}} {
			got, err := Same(t.Context(), testKey, p[0], p[1])
			require.NoError(rt, err)
			require.Equal(rt, want, got)
			if p[0].SameContent(p[1]) {
				require.True(rt, want)
			}
			if p[0].KnownToDiffer(p[1]) {
				require.False(rt, want)
			}
		}
		require.Equal(rt, x, *a)
		require.Equal(rt, y, *b)
	})
}

func TestSameNeedsAFile(t *testing.T) {
	w := newWorld(t)
	content := noise(2<<20, 1)
	a, b := w.file("f", content).Entry, w.file("f", content).Entry
	require.NoError(t, Hash(t.Context(), testKey, &a))
	b.Chunks = []snapshot.Chunk{{Len: 2 << 20, ID: newKeyed(testKey).id(content)}}
	a.Source, b.Source = "", ""
	_, err := Same(t.Context(), testKey, &a, &b)
	require.ErrorContains(t, err, "nowhere to read")
	b.Source = "/nowhere"
	_, err = Same(t.Context(), testKey, &a, &b)
	require.ErrorIs(t, err, os.ErrNotExist)
	b.Chunks = nil
	_, err = Same(t.Context(), testKey, &b, &a)
	require.ErrorIs(t, err, os.ErrNotExist)

	// Chunks at the same place tell without reading.
	b.Chunks = slices.Clone(a.Chunks)
	same, err := Same(t.Context(), testKey, &a, &b)
	require.NoError(t, err)
	require.True(t, same)
	b.Chunks[3].ID[0] ^= 1
	same, err = Same(t.Context(), testKey, &a, &b)
	require.NoError(t, err)
	require.False(t, same)
}
