package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// readByEntry is ReadManifest by a ManifestReader.
func readByEntry(b []byte) (*snapshot.Manifest, snapshot.Digest, error) {
	r, err := NewManifestReader(iotest.HalfReader(bytes.NewReader(b)), int64(len(b)))
	if err != nil {
		return nil, snapshot.Digest{}, err
	}
	m := &snapshot.Manifest{}
	for {
		var e snapshot.Entry
		if err := r.Next(&e); errors.Is(err, io.EOF) {
			return m, r.Digest(), nil
		} else if err != nil {
			return nil, snapshot.Digest{}, err
		}
		m.Entries = append(m.Entries, e)
	}
}

// readByChange is ReadIndex by an IndexReader.
func readByChange(b []byte) (*Index, error) {
	r, err := NewIndexReader(iotest.HalfReader(bytes.NewReader(b)), int64(len(b)))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	ix := *r.Tables
	for {
		var ch snapshot.Change
		if err := r.Next(&ch); errors.Is(err, io.EOF) {
			return &ix, nil
		} else if err != nil {
			return nil, err
		}
		ix.Changes = append(ix.Changes, ch)
	}
}

// longIndex has a body of more than bodyWindow, and chunks that the first and the last
// changes share.
func longIndex(t *testing.T) *Index {
	ix := &Index{Packs: []Pack{{Digest: snapshot.Digest{9}, Bytes: maxPackBytes, Own: true}}}
	ix.Frames = []Frame{{Off: packHeader, Stored: 1 << 20, Plain: 1 << 20, Codec: CodecRaw}}
	ids := noise(32*200_000, 3)
	for i := range 200_000 {
		ix.Chunks = append(ix.Chunks, ChunkRef{ID: snapshot.Digest(ids[32*i:]), Off: uint32(i), Len: 4})
	}
	for i := range 210_000 {
		c := &ix.Chunks[i%len(ix.Chunks)]
		ix.Changes = append(ix.Changes, snapshot.Change{Entry: snapshot.Entry{
			Path: fmt.Sprintf("%04d/%06d of some length", i/100, i), Type: snapshot.TypeFile, Size: 4, MTime: int64(i) * 977,
			Chunks: []snapshot.Chunk{{Len: 4, ID: c.ID}},
		}})
	}
	body, err := appendBody(nil, ix)
	require.NoError(t, err)
	require.Greater(t, len(body), bodyWindow)
	return ix
}

// What is read entry by entry is what is read at once, down to what is refused.
func TestReadByEntry(t *testing.T) {
	ix := longIndex(t)
	raw := encodeIndex(t, ix)
	want, err := ReadIndex(bytes.NewReader(raw))
	require.NoError(t, err)
	got, err := readByChange(raw)
	require.NoError(t, err)
	require.Equal(t, want.Packs, got.Packs)
	require.Equal(t, want.Chunks, got.Chunks)
	require.Len(t, got.Changes, len(want.Changes))
	for i := range want.Changes {
		require.True(t, want.Changes[i].Entry.Equal(&got.Changes[i].Entry))
	}
	m := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Xattrs: []snapshot.Xattr{{Name: "user.a", Value: noise(60<<10, 1)}, {Name: "user.b", Value: noise(60<<10, 2)}}}}}
	for i := range 20_000 {
		m.Entries = append(m.Entries, want.Changes[i].Entry)
	}
	rawM, d := encodeManifest(t, m)
	back, got2, err := readByEntry(rawM)
	require.NoError(t, err)
	require.Equal(t, d, got2)
	require.Len(t, back.Entries, len(m.Entries))
	for i := range m.Entries {
		require.True(t, m.Entries[i].Equal(&back.Entries[i]), i)
	}
}

// No damage goes unseen, and none is told of as an error of the disk or the other way round.
func TestReadByEntryDamaged(t *testing.T) {
	_, base, top := goldenLayers(t)
	for _, ix := range []*Index{base, top} {
		raw := encodeIndex(t, ix)
		for i := range raw {
			b := bytes.Clone(raw)
			b[i] ^= 1 << (i % 8)
			_, err := readByChange(b)
			require.Error(t, err, i)
		}
		for n := range raw {
			_, err := readByChange(raw[:n])
			require.Error(t, err, n)
		}
		_, err := readByChange(append(bytes.Clone(raw), 0))
		require.Error(t, err)
	}
	m := goldenManifest(base)
	raw, _ := encodeManifest(t, m)
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1 << (i % 8)
		_, _, err := readByEntry(b)
		var corrupt *snapshot.CorruptError
		require.True(t, errors.As(err, &corrupt) || errors.Is(err, snapshot.ErrNewerFormat), "%d: %v", i, err)
	}
	bad := errors.New("no disk")
	r, err := NewManifestReader(io.MultiReader(bytes.NewReader(raw[:20]), iotest.ErrReader(bad)), int64(len(raw)))
	for err == nil {
		var e snapshot.Entry
		err = r.Next(&e)
	}
	require.ErrorIs(t, err, bad)
	var corrupt *snapshot.CorruptError
	require.NotErrorAs(t, err, &corrupt)
}
