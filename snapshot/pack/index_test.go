package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

func encodeIndex(t require.TestingT, ix *Index) []byte {
	var b bytes.Buffer
	d, err := WriteIndex(&b, ix)
	require.NoError(t, err)
	require.Equal(t, snapshot.Digest(sha256.Sum256(b.Bytes())), d)
	return b.Bytes()
}

func TestIndexRoundtrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ix := genIndex(rt)
		b := encodeIndex(rt, ix)
		back, err := ReadIndex(bytes.NewReader(b))
		require.NoError(rt, err)
		require.Equal(rt, ix.Base, back.Base)
		require.Equal(rt, ix.Manifest, back.Manifest)
		require.ElementsMatch(rt, ix.Packs, back.Packs)
		require.ElementsMatch(rt, ix.Frames, back.Frames)
		require.ElementsMatch(rt, ix.Chunks, back.Chunks)
		require.Len(rt, back.Changes, len(ix.Changes))
		for i := range ix.Changes {
			a, b := &ix.Changes[i], &back.Changes[i]
			require.True(rt, a.Delete == b.Delete && a.Replace == b.Replace && a.Entry.Equal(&b.Entry), "%+v\n%+v", a, b)
		}
		require.Equal(rt, ix.Locate(), back.Locate())
		require.Equal(rt, b, encodeIndex(rt, back), "what was read is written the same")
	})
}

// smallIndex is of a real layer.
func smallIndex(t testing.TB) (*world, *Index) {
	w := newWorld(t)
	changes := []snapshot.Change{
		{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755}},
		w.file("a", text(2000, 1)),
		w.file("b", noise(500, 2)),
		{Delete: true, Entry: snapshot.Entry{Path: "c"}},
		{Replace: true, Entry: snapshot.Entry{Path: "d", Type: snapshot.TypeDir}},
		w.file("d/e", text(2000, 1)),
	}
	ix, _, err := Encode(t.Context(), w.options(), changes)
	require.NoError(t, err)
	return w, ix
}

func TestIndexDamage(t *testing.T) {
	_, ix := smallIndex(t)
	b := encodeIndex(t, ix)
	read := func(b []byte) error {
		_, err := ReadIndex(bytes.NewReader(b))
		return err
	}
	require.NoError(t, read(b))
	for i := range b {
		for bit := range 8 {
			d := bytes.Clone(b)
			d[i] ^= 1 << bit
			err := read(d)
			if i == len(indexMagic) && d[i] > indexV1 {
				require.ErrorIs(t, err, snapshot.ErrNewerFormat)
				require.ErrorContains(t, err, fmt.Sprintf("format version %d, this one reads up to 1", d[i]))
				continue
			}
			requireCorrupt(t, err, "byte %d bit %d", i, bit)
		}
		requireCorrupt(t, read(b[:i]), "cut at %d", i)
	}
	requireCorrupt(t, read(append(bytes.Clone(b), 0)))
}

// A flip under a right checksum is an attack, not damage. It may say something
// else, but never panic, and what is accepted must be consistent.
func TestIndexFlipsUnderARightChecksum(t *testing.T) {
	w, ix := smallIndex(t)
	body, err := appendBody(nil, ix)
	require.NoError(t, err)
	for i := range body {
		for bit := range 8 {
			d := bytes.Clone(body)
			d[i] ^= 1 << bit
			got, err := ReadIndex(bytes.NewReader(rawIndex(d, CodecRaw, uint64(len(d)))))
			if err != nil {
				continue
			}
			_, err = checkTables(got)
			require.NoError(t, err, "byte %d bit %d", i, bit)
			_, err = WriteIndex(&bytes.Buffer{}, got)
			require.NoError(t, err, "byte %d bit %d", i, bit)
			s := newSink(got)
			if err := Extract(t.Context(), got, ExtractOptions{Key: testKey, Open: w.open}, s.write); err == nil {
				continue // every chunk had the right digest
			}
		}
	}
}

// rawIndex wraps a body as an attacker would: with right sums.
func rawIndex(body []byte, codec byte, plain uint64) []byte {
	b := append([]byte(indexMagic), indexV1)
	b = append(b, make([]byte, 64)...)
	b = append(b, codec)
	b = binary.LittleEndian.AppendUint64(b, plain)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
	return reseal(append(b, body...))
}

func TestIndexBody(t *testing.T) {
	ix := &Index{}
	for i := range 100 {
		ix.Changes = append(ix.Changes, snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: fmt.Sprintf("directory %02d/file", i)}})
	}
	body, err := appendBody(nil, ix)
	require.NoError(t, err)
	z := compress(nil, body)
	n := uint64(len(body))
	zerosZ := compress(nil, make([]byte, 1<<20))
	cases := []struct {
		name string
		b    []byte
		want string
	}{
		{"raw", rawIndex(body, CodecRaw, n), ""},
		{"zstd", rawIndex(z, CodecZstd, n), ""},
		{"unknown codec", rawIndex(body, 2, n), "newer version"},
		{"raw of another size", rawIndex(body, CodecRaw, n+1), "stored raw"},
		{"says less", rawIndex(z, CodecZstd, n-1), "another size"},
		{"says more", rawIndex(z, CodecZstd, n+1), "another size"},
		{"bomb by ratio", rawIndex(zerosZ, CodecZstd, 1<<20), "says that it grows"},
		{"bomb by a lie", rawIndex(zerosZ, CodecZstd, uint64(len(zerosZ))*10), "another size"},
		{"says 2^63", rawIndex(z, CodecZstd, 1<<63), "says that it grows"},
		{"not zstd", rawIndex(bytes.Repeat([]byte("x"), 100), CodecZstd, 200), "zstd"},
		{"two frames", rawIndex(append(bytes.Clone(z), z...), CodecZstd, n), "zstd"},
		{"empty", rawIndex(nil, CodecRaw, 0), "number of packs"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadIndex(bytes.NewReader(c.b))
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestIndexReferences(t *testing.T) {
	good := func() *Index {
		return &Index{
			Packs:  []Pack{{Digest: snapshot.Digest{1}, Bytes: 1000, Own: true}, {Digest: snapshot.Digest{2}, Bytes: 500}},
			Frames: []Frame{{Pack: 0, Off: 8, Stored: 100, Plain: 200, Codec: CodecZstd}, {Pack: 1, Off: 20, Stored: 50, Plain: 50}},
			Chunks: []ChunkRef{{ID: snapshot.Digest{3}, Frame: 0, Off: 10, Len: 20}, {ID: snapshot.Digest{4}, Frame: 1, Len: 50}},
			Changes: []snapshot.Change{{Entry: snapshot.Entry{
				Path: "f", Type: snapshot.TypeFile, Size: 20,
				Chunks: []snapshot.Chunk{{Len: 20, ID: snapshot.Digest{3}}},
			}}},
		}
	}
	encodeIndex(t, good())
	cases := []struct {
		name   string
		change func(*Index)
		want   string
	}{
		{"frame's pack", func(ix *Index) { ix.Frames[1].Pack = 2 }, "pack 2 out of range"},
		{"negative pack", func(ix *Index) { ix.Frames[0].Pack = -1 }, "out of range"},
		{"frames out of order", func(ix *Index) { ix.Frames[0], ix.Frames[1] = ix.Frames[1], ix.Frames[0] }, "out of range or order"},
		{"frames overlap", func(ix *Index) { ix.Frames[1].Pack, ix.Frames[1].Off = 0, 107 }, "do not fit"},
		{"frame in the header", func(ix *Index) { ix.Frames[0].Off = 7 }, "do not fit"},
		{"frame behind the end", func(ix *Index) { ix.Frames[1].Off = 451 }, "do not fit"},
		{"frame too large", func(ix *Index) { ix.Frames[0].Plain = snapshot.MaxChunkBytes + 1 }, "plain"},
		{"frame of nothing", func(ix *Index) { ix.Frames[0].Plain = 0 }, "plain"},
		{"raw frame of two sizes", func(ix *Index) { ix.Frames[1].Plain = 51 }, "raw, but"},
		{"compressed frame that grew", func(ix *Index) { ix.Frames[0].Plain = 100 }, "compressed from"},
		{"unknown codec", func(ix *Index) { ix.Frames[0].Codec = 9 }, "newer version"},
		{"chunk's frame", func(ix *Index) { ix.Chunks[0].Frame = 2 }, "no frame 2"},
		{"chunk leaves the frame", func(ix *Index) { ix.Chunks[1].Off = 1 }, "leave the frame"},
		{"chunk overflows", func(ix *Index) { ix.Chunks[1].Off = 1<<32 - 1 }, "leave the frame"},
		{"empty chunk", func(ix *Index) { ix.Chunks[1].Len = 0 }, "leave the frame"},
		{"chunk twice", func(ix *Index) { ix.Chunks[1].ID = ix.Chunks[0].ID }, "listed twice"},
		{"pack twice", func(ix *Index) { ix.Packs[1].Digest = ix.Packs[0].Digest }, "listed twice"},
		{"pack without a name", func(ix *Index) { ix.Packs[1].Digest = snapshot.Digest{} }, "named"},
		{"pack of no bytes", func(ix *Index) { ix.Packs[1].Bytes = 8 }, "named"},
		{"chunk in no frame", func(ix *Index) { ix.Changes[0].Entry.Chunks[0].ID = snapshot.Digest{9} }, "in no frame"},
		{"chunk of another length", func(ix *Index) { ix.Changes[0].Entry.Chunks[0].Len = 19 }, "here and"},
		{"not hashed", func(ix *Index) { ix.Changes[0].Entry.Chunks = nil }, "not hashed"},
		{"delete and replace", func(ix *Index) { ix.Changes[0].Delete, ix.Changes[0].Replace = true, true }, "both"},
		{"delete the root", func(ix *Index) {
			ix.Changes[0] = snapshot.Change{Delete: true}
		}, "root"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ix := good()
			c.change(ix)
			_, err := WriteIndex(&bytes.Buffer{}, ix)
			require.ErrorContains(t, err, c.want)
		})
	}
}
