package pack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// The files in testdata/v1 were written by the first version and are read by every
// later one. They are never written again: -golden makes those that are missing.
var golden = flag.Bool("golden", false, "write golden files that do not exist")

const goldenDir = "testdata/v1"

// goldenLayers makes a base layer and one on top that uses all of the format.
func goldenLayers(t *testing.T) (w *world, base, top *Index) {
	w = newWorld(t)
	changes := []snapshot.Change{
		{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755, MTime: 1_700_000_000_000_000_001}},
		w.file("gone", text(700, 1)),
		w.file("keep", text(900, 2)),
		w.file("noise", noise(400, 3)),
	}
	base, _, err := Encode(t.Context(), w.options(), changes)
	require.NoError(t, err)
	base.Manifest = snapshot.Digest{1, 2, 3}
	sparse := make([]byte, 200<<10)
	copy(sparse[70<<10:], text(300, 4))
	file := func(path string, content []byte, change func(*snapshot.Entry)) snapshot.Change {
		c := w.file(path, content)
		change(&c.Entry)
		return c
	}
	none := func(*snapshot.Entry) {}
	other := func(path string, ty snapshot.Type, target string) snapshot.Change {
		return snapshot.Change{Entry: snapshot.Entry{Path: path, Type: ty, Mode: 0o777, Target: target, MTime: -5}}
	}
	changes = []snapshot.Change{
		{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o1777, UID: 1000, GID: 100, MTime: 1_700_000_000_000_000_002}},
		other("a", snapshot.TypeDir, ""),
		file("a/copy of keep", text(900, 2), none),
		file("a/empty", nil, none),
		file("a/setuid", text(50, 5), func(e *snapshot.Entry) { e.Mode, e.UID = 0o4755, 4_000_000_000 }),
		file("a/sparse", sparse, func(e *snapshot.Entry) {
			e.Xattrs = []snapshot.Xattr{{Name: "user.empty"}, {Name: "user.mime", Value: []byte("text/\x00plain")}}
		}),
		file("a.b", text(1200, 6), func(e *snapshot.Entry) { e.Link = "a.b" }),
		file("a.c", text(1200, 6), func(e *snapshot.Entry) { e.Link = "a.b" }),
		file("b\xff\n", noise(3000, 7), func(e *snapshot.Entry) { e.Link = "0 is in the base" }),
		other("fifo", snapshot.TypeFifo, ""),
		{Delete: true, Entry: snapshot.Entry{Path: "gone"}},
		other("link", snapshot.TypeSymlink, "../a/empty"),
		{Replace: true, Entry: snapshot.Entry{Path: "new", Type: snapshot.TypeDir, Mode: 0o700}},
		other("new/socket", snapshot.TypeSocket, ""),
	}
	for i := range 20 { // so that the index is worth compressing
		changes = append(changes, snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: fmt.Sprintf("old objects %02d/object", i)}})
	}
	known := base.Locate()
	o := w.options()
	o.Known = func(d snapshot.Digest) (Location, bool) { l, ok := known[d]; return l, ok }
	top, _, err = Encode(t.Context(), o, changes)
	require.NoError(t, err)
	top.Base, top.Manifest = base.Manifest, snapshot.Digest{4, 5, 6}
	return w, base, top
}

// goldenManifest is of all that the changes put.
func goldenManifest(ix *Index) *snapshot.Manifest {
	m := &snapshot.Manifest{}
	for _, c := range ix.Changes {
		if !c.Delete {
			m.Entries = append(m.Entries, c.Entry)
		}
	}
	return m
}

func goldenFile(t *testing.T, name string, make func() []byte) []byte {
	t.Helper()
	path := filepath.Join(goldenDir, name)
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) && *golden {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		b = make()
		require.NoError(t, os.WriteFile(path, b, 0o644))
		t.Logf("wrote %s", path)
		return b
	}
	require.NoError(t, err)
	return b
}

func TestGolden(t *testing.T) {
	w, base, top := goldenLayers(t)

	// Manifests are canonical: bytes must be the same for ever.
	want, digest := encodeManifest(t, goldenManifest(top))
	require.Equal(t, goldenFile(t, "tree.manifest", func() []byte { return want }), want)
	require.Equal(t, string(goldenFile(t, "tree.digest", func() []byte { return []byte(digest.String()) })), digest.String())

	// Indexes and packs may be written otherwise by a later compressor. What is read
	// must be the same.
	for _, l := range []struct {
		name string
		ix   *Index
	}{{"base", base}, {"top", top}} {
		b := goldenFile(t, l.name+".index", func() []byte { return encodeIndex(t, l.ix) })
		ix, err := ReadIndex(bytes.NewReader(b))
		require.NoError(t, err)
		say, err := json.MarshalIndent(ix, "", " ")
		require.NoError(t, err)
		require.Equal(t, string(goldenFile(t, l.name+".json", func() []byte { return say })), string(say))
		for _, p := range l.ix.Packs {
			goldenFile(t, "packs/"+p.Digest.String(), func() []byte {
				b, err := os.ReadFile(filepath.Join(w.dir, "packs", p.Digest.String()))
				require.NoError(t, err)
				return b
			})
		}
		require.Len(t, ix.Changes, len(l.ix.Changes))
		s := newSink(ix)
		require.NoError(t, Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: openGolden}, s.write))
		for i := range ix.Changes {
			a, b := ix.Changes[i], l.ix.Changes[i]
			require.True(t, a.Entry.Equal(&b.Entry), "%+v\n%+v", a, b)
			if content, ok := s.files[i]; ok && (b.Entry.Link == "" || b.Entry.Path != "a.c") {
				want, err := os.ReadFile(b.Entry.Source)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, content), b.Entry.Path)
			}
		}
	}
}

// TestGoldenLarge is two layers of a large file in small chunks. That the writer
// still cuts it so is no matter of the format: but whoever changes where it cuts
// makes all that is stored new.
func TestGoldenLarge(t *testing.T) {
	l := newLine(newWorld(t))
	content := text(1<<20+70_000, 1)
	clear(content[500_000:700_000])
	base, _ := l.next(content)
	content = append(content[:300_000], content[300_053:]...)
	content = append(content, text(40_000, 2)...)
	top, _ := l.next(content)
	for _, g := range []struct {
		name string
		ix   *Index
	}{{"large-base", base}, {"large-top", top}} {
		b := goldenFile(t, g.name+".index", func() []byte { return encodeIndex(t, g.ix) })
		ix, err := ReadIndex(bytes.NewReader(b))
		require.NoError(t, err)
		say, err := json.MarshalIndent(ix, "", " ")
		require.NoError(t, err)
		require.Equal(t, string(goldenFile(t, g.name+".json", func() []byte { return say })), string(say))
		for _, p := range g.ix.Packs {
			if !*golden {
				continue // a later compressor makes others
			}
			goldenFile(t, "packs/"+p.Digest.String(), func() []byte {
				b, err := os.ReadFile(filepath.Join(l.w.dir, "packs", p.Digest.String()))
				require.NoError(t, err)
				return b
			})
		}
		require.Equal(t, ix.Changes[0].Entry.Chunks, g.ix.Changes[0].Entry.Chunks, "the writer cuts elsewhere")
		s := newSink(ix)
		require.NoError(t, Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: openGolden}, s.write))
		if g.name == "large-top" {
			require.True(t, bytes.Equal(content, s.files[0]))
		}
	}
	require.Greater(t, len(top.Changes[0].Entry.Chunks), 10)
	require.Len(t, top.Packs, 2)
}

func openGolden(_ context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	b, err := os.ReadFile(filepath.Join(goldenDir, "packs", d.String()))
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(bytes.NewReader(b), off, n)), nil
}

// damages makes the damaged files out of the good ones.
func damages(t *testing.T) map[string][]byte {
	_, _, top := goldenLayers(t)
	manifest, _ := encodeManifest(t, goldenManifest(top))
	index := encodeIndex(t, top)
	body, err := appendBody(nil, top)
	require.NoError(t, err)
	change := func(b []byte, f func([]byte) []byte) []byte { return f(bytes.Clone(b)) }
	resealed := func(b []byte, f func([]byte) []byte) []byte {
		return reseal(f(bytes.Clone(b[:len(b)-32])))
	}
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	huge := func(b []byte) []byte { binary.LittleEndian.PutUint64(b[73:], 1<<62); return b }
	return map[string][]byte{
		"newer.manifest":        resealed(manifest, set(7, 2)),
		"version-0.manifest":    resealed(manifest, set(7, 0)),
		"magic.manifest":        resealed(manifest, set(0, 'X')),
		"flipped.manifest":      change(manifest, func(b []byte) []byte { b[40] ^= 4; return b }),
		"cut.manifest":          manifest[:len(manifest)/2],
		"empty.manifest":        {},
		"trailing.manifest":     append(bytes.Clone(manifest), 0),
		"count.manifest":        resealed(manifest, set(8, 0x7f)),
		"newer.index":           resealed(index, set(7, 2)),
		"flipped.index":         change(index, func(b []byte) []byte { b[200] ^= 1; return b }),
		"cut.index":             index[:len(index)-1],
		"codec.index":           resealed(index, set(72, 7)),
		"says-huge.index":       resealed(index, huge),
		"body-cut.index":        rawIndex(body[:len(body)-10], CodecRaw, uint64(len(body)-10)),
		"body-trailing.index":   rawIndex(append(bytes.Clone(body), 0), CodecRaw, uint64(len(body)+1)),
		"packs-count.index":     rawIndex(append([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, body...), CodecRaw, uint64(len(body)+5)),
		"manifest-as-index":     manifest,
		"bomb.index":            rawIndex(compress(nil, make([]byte, 64<<20)), CodecZstd, 64<<20),
		"dot-dot.index":         rawIndex(append([]byte{0, 0, 0, 1, opDelete, 0, 4}, "a/.."...), CodecRaw, 11),
		"absolute.index":        rawIndex(append([]byte{0, 0, 0, 1, opDelete, 0, 2}, "/a"...), CodecRaw, 9),
		"chunk-of-nobody.index": rawIndex(append([]byte{0, 0, 0, 1, opPut, 0, 1, 'f', 0xc2}, 0, 5, 1, 0, 0), CodecRaw, 14),
	}
}

// TestGoldenDamaged reads testdata/v1/damaged, where wants.txt has what each file
// must be refused with.
func TestGoldenDamaged(t *testing.T) {
	if *golden {
		for name, b := range damages(t) {
			goldenFile(t, filepath.Join("damaged", name), func() []byte { return b })
		}
	}
	f, err := os.Open(filepath.Join(goldenDir, "damaged", "wants.txt"))
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // only read from
	seen := map[string]bool{"wants.txt": true}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, want, ok := strings.Cut(lines.Text(), ": ")
		require.True(t, ok, lines.Text())
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(goldenDir, "damaged", name))
			require.NoError(t, err)
			before := allocated()
			if strings.HasSuffix(name, ".manifest") {
				_, _, err = ReadManifest(bytes.NewReader(b))
			} else {
				_, err = ReadIndex(bytes.NewReader(b))
			}
			require.ErrorContains(t, err, want)
			if strings.HasPrefix(want, "format version 2") {
				require.ErrorIs(t, err, snapshot.ErrNewerFormat)
			}
			require.Less(t, allocated()-before, uint64(4<<20))
		})
	}
	list, err := os.ReadDir(filepath.Join(goldenDir, "damaged"))
	require.NoError(t, err)
	for _, e := range list {
		require.True(t, seen[e.Name()], "%s is not in wants.txt", e.Name())
	}
}
