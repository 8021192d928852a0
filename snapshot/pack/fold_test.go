package pack

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// foldable makes an index of which chunk c lies in frame of pack p at off.
func foldable(own bool, p, c byte, length uint32) *Index {
	return &Index{
		Packs:  []Pack{{Digest: snapshot.Digest{p}, Bytes: 1 << 20, Own: own}},
		Frames: []Frame{{Off: packHeader, Stored: 100, Plain: 100}},
		Chunks: []ChunkRef{{ID: snapshot.Digest{c}, Off: 10, Len: length}},
	}
}

func fileOf(path string, ids ...byte) snapshot.Change {
	e := snapshot.Entry{Path: path, Type: snapshot.TypeFile, Mode: 0o644}
	for _, id := range ids {
		e.Chunks = append(e.Chunks, snapshot.Chunk{Off: e.Size, Len: 50, ID: snapshot.Digest{id}})
		e.Size += 50
	}
	return snapshot.Change{Entry: e}
}

func TestFold(t *testing.T) {
	newest, oldest := foldable(true, 2, 7, 50), foldable(false, 1, 8, 50)
	changes := []snapshot.Change{{Entry: snapshot.Entry{Type: snapshot.TypeDir}}, fileOf("a", 8), fileOf("b", 7, 8)}
	ix, err := Fold([]*Index{newest, oldest}, changes)
	require.NoError(t, err)
	_, err = checkTables(ix)
	require.NoError(t, err)
	at := ix.Locate()
	require.Len(t, at, 2)
	require.Equal(t, snapshot.Digest{2}, at[snapshot.Digest{7}].Pack.Digest)
	require.True(t, at[snapshot.Digest{7}].Pack.Own)
	require.Equal(t, snapshot.Digest{1}, at[snapshot.Digest{8}].Pack.Digest)
	require.False(t, at[snapshot.Digest{8}].Pack.Own)

	ix, err = Fold([]*Index{newest, foldable(true, 1, 7, 50)}, []snapshot.Change{fileOf("a", 7)})
	require.NoError(t, err)
	require.Len(t, ix.Packs, 1, "the newest is asked first, and what is not needed is not named")
	require.Equal(t, snapshot.Digest{2}, ix.Packs[0].Digest)

	var corrupt *snapshot.CorruptError
	_, err = Fold([]*Index{newest}, []snapshot.Change{fileOf("a", 9)})
	require.ErrorAs(t, err, &corrupt, "nobody has it")
	_, err = Fold([]*Index{foldable(true, 2, 7, 49)}, []snapshot.Change{fileOf("a", 7)})
	require.ErrorAs(t, err, &corrupt, "of another length")
	_, err = Fold([]*Index{foldable(true, 2, 7, 95)}, []snapshot.Change{fileOf("a", 7)})
	require.Error(t, err, "a chunk beyond its frame")
}
