package pack

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// benchManifest is like a tree of sources: 10 files in a directory, one chunk each.
func benchManifest(n int) *snapshot.Manifest {
	m := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Mode: 0o755}}}
	for i := range n / 11 {
		dir := fmt.Sprintf("src/module-%05d/internal", i)
		m.Entries = append(m.Entries, snapshot.Entry{Path: dir, Type: snapshot.TypeDir, Mode: 0o755, MTime: int64(i) << 30})
		for j := range 10 {
			e := snapshot.Entry{
				Path: fmt.Sprintf("%s/file_%d.go", dir, j), Type: snapshot.TypeFile, Mode: 0o644,
				MTime: int64(i)<<30 + int64(j)<<20, Size: 5000,
			}
			e.Chunks = []snapshot.Chunk{{Len: 5000, ID: sha256.Sum256(fmt.Append(nil, i, j))}}
			m.Entries = append(m.Entries, e)
		}
	}
	return m
}

func BenchmarkManifest(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		m := benchManifest(n)
		raw, _ := encodeManifest(b, m)
		b.Run(fmt.Sprintf("write/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := ManifestDigest(m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("read/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, _, err := ReadManifest(bytes.NewReader(raw)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		ix := &Index{Packs: []Pack{{Digest: snapshot.Digest{1}, Bytes: maxPackBytes, Own: true}}}
		for _, e := range benchManifest(n).Entries {
			ix.Changes = append(ix.Changes, snapshot.Change{Entry: e})
			if len(e.Chunks) == 0 {
				continue
			}
			if len(ix.Chunks)%200 == 0 {
				ix.Frames = append(ix.Frames, Frame{Off: int64(packHeader + len(ix.Frames)*300_000), Stored: 300_000, Plain: 1_000_000, Codec: CodecZstd})
			}
			ix.Chunks = append(ix.Chunks, ChunkRef{ID: e.Chunks[0].ID, Frame: len(ix.Frames) - 1, Off: uint32(len(ix.Chunks) % 200 * 5000), Len: 5000})
		}
		raw := encodeIndex(b, ix)
		b.Run(fmt.Sprintf("write/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := WriteIndex(&bytes.Buffer{}, ix); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("read/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := ReadIndex(bytes.NewReader(raw)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// layers are the kinds of content that matter: they differ in what they wait for.
var layers = []struct {
	name string
	make func(w *world) []snapshot.Change
}{
	{"one-small-file", func(w *world) []snapshot.Change { return many(w, 1, 3000, text) }},
	{"4000-small-text", func(w *world) []snapshot.Change { return many(w, 4000, 8000, text) }},
	{"large-text", func(w *world) []snapshot.Change { return many(w, 2, 32<<20, text) }},
	{"large-noise", func(w *world) []snapshot.Change { return many(w, 2, 64<<20, noise) }},
}

func many(w *world, n, size int, content func(int, uint64) []byte) (list []snapshot.Change) {
	for i := range n {
		list = append(list, w.file(fmt.Sprintf("%05d", i), content(size, uint64(i))))
	}
	return list
}

func plainBytes(changes []snapshot.Change) (n int64) {
	for i := range changes {
		n += changes[i].Entry.Size
	}
	return n
}

func BenchmarkEncode(b *testing.B) {
	for _, l := range layers {
		b.Run(l.name, func(b *testing.B) {
			w := newWorld(b)
			changes := l.make(w)
			b.ReportAllocs()
			b.SetBytes(plainBytes(changes))
			for b.Loop() {
				for i := range changes {
					changes[i].Entry.Chunks = nil
				}
				if _, _, err := Encode(b.Context(), w.options(), changes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncodeKnown has nothing new: it is reading and hashing.
func BenchmarkEncodeKnown(b *testing.B) {
	w := newWorld(b)
	changes := many(w, 4000, 8000, text)
	ix, _, err := Encode(b.Context(), w.options(), changes)
	require.NoError(b, err)
	known := ix.Locate()
	o := w.options()
	o.Known = func(d snapshot.Digest) (Location, bool) { l, ok := known[d]; return l, ok }
	b.ReportAllocs()
	b.SetBytes(plainBytes(changes))
	for b.Loop() {
		for i := range changes {
			changes[i].Entry.Chunks = nil
		}
		if _, _, err := Encode(b.Context(), o, changes); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExtract(b *testing.B) {
	for _, l := range layers {
		b.Run(l.name, func(b *testing.B) {
			w := newWorld(b)
			changes := l.make(w)
			ix, _, err := Encode(b.Context(), w.options(), changes)
			require.NoError(b, err)
			o := ExtractOptions{Key: testKey, Open: w.open}
			b.ReportAllocs()
			b.SetBytes(plainBytes(changes))
			for b.Loop() {
				if err := Extract(b.Context(), ix, o, func(int, int64, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
