package erofs

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// mostly draws the right value seven times of eight, and else one of the others.
func mostly[T any](t *rapid.T, what string, right *rapid.Generator[T], wrong ...T) T {
	if rapid.IntRange(0, 7).Draw(t, what+" wrong") > 0 {
		return right.Draw(t, what)
	}
	return rapid.SampledFrom(wrong).Draw(t, what)
}

// genOdd draws a manifest of which nothing can be relied on.
func genOdd(t *rapid.T) (entries []snapshot.Entry, places map[string]Content) {
	places = map[string]Content{}
	if rapid.IntRange(0, 9).Draw(t, "root") > 0 {
		entries = append(entries, with("", snapshot.TypeDir, nil))
	}
	paths := []string{""}
	for range rapid.IntRange(0, 12).Draw(t, "entries") {
		e := genOddEntry(t, paths)
		paths = append(paths, e.Path)
		entries = append(entries, e)
		if e.Type == snapshot.TypeFile && rapid.IntRange(0, 9).Draw(t, "placed") > 0 {
			places[e.Path] = genOddContent(t, e.Size)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "sorted") > 0 {
		slices.SortStableFunc(entries, func(a, b snapshot.Entry) int { return snapshot.ComparePaths(a.Path, b.Path) })
		entries = slices.CompactFunc(entries, func(a, b snapshot.Entry) bool { return a.Path == b.Path })
	}
	return entries, places
}

func genOddEntry(t *rapid.T, paths []string) snapshot.Entry {
	path := mostly(t, "name", genName(), "", ".", "..", "a/b", "/", "a\x00b", strings.Repeat("n", 256))
	if dir := rapid.SampledFrom(paths).Draw(t, "in"); dir != "" {
		path = dir + "/" + path
	}
	e := snapshot.Entry{
		Path:  path,
		Type:  mostly(t, "type", rapid.SampledFrom([]snapshot.Type{1, 1, 1, 2, 2, 2, 3, 4, 5}), 0, 6, 255),
		Mode:  mostly(t, "mode", rapid.Uint32Range(0, 0o7777), 0o10000, 0o100644, 1<<32-1),
		UID:   rapid.Uint32().Draw(t, "uid"),
		MTime: rapid.Int64().Draw(t, "mtime"),
	}
	if e.Type == snapshot.TypeFile {
		e.Size = mostly(t, "size", rapid.OneOf(rapid.Int64Range(0, 5000), rapid.Int64Range(0, 1<<40)), -1, 1<<63-1, 1<<62)
		if rapid.Bool().Draw(t, "hashed") {
			e.Chunks = []snapshot.Chunk{}
			for range rapid.IntRange(0, 2).Draw(t, "chunks") {
				e.Chunks = append(e.Chunks, snapshot.Chunk{Off: rapid.Int64Range(-1, 6000).Draw(t, "off"), Len: rapid.Int64Range(-1, 6000).Draw(t, "len")})
			}
		}
	}
	if e.Type == snapshot.TypeSymlink {
		e.Target = mostly(t, "target", rapid.StringN(1, 600, 4095), "", "a\x00", strings.Repeat("t", 4096))
	}
	for range mostly(t, "attributes", rapid.Just(0), 1, 2, 3, 300) {
		e.Xattrs = append(e.Xattrs, snapshot.Xattr{
			Name:  mostly(t, "attribute", rapid.StringMatching(`user\.[a-z]{1,3}`), nameACLAccess, nameACLDefault, "user.", "trusted.overlay.redirect", "", strings.Repeat("x", 256)),
			Value: rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 40), rapid.Just(acl(1)), rapid.Just(make([]byte, 3000))).Draw(t, "value"),
		})
		slices.SortFunc(e.Xattrs, func(a, b snapshot.Xattr) int { return strings.Compare(a.Name, b.Name) })
	}
	if len(paths) > 1 && rapid.IntRange(0, 5).Draw(t, "linked") == 0 {
		e.Link = rapid.SampledFrom(append(paths, path)).Draw(t, "link")
	}
	return e
}

func genOddContent(t *rapid.T, size int64) (c Content) {
	grid := mostly(t, "grid", rapid.SampledFrom([]int64{512, 4096}), 1, 100)
	at := func(what string, most int64) int64 {
		return rapid.Int64Range(0, max(0, most)/grid).Draw(t, what) * grid
	}
	switch rapid.IntRange(0, 9).Draw(t, "content") {
	case 0:
		c.Object = mostly(t, "object", rapid.Just("/ab/cd"), "ab", "/", "//", "/a/../b", "")
	case 1, 2, 3:
		c.Extents = []Extent{{Len: size, At: at("at", 1<<41)}}
	default:
		for off := int64(0); off < size && len(c.Extents) < 4; {
			x := Extent{Off: off, Len: min(at("len", size), size-off), Device: rapid.IntRange(-1, 2).Draw(t, "device"), At: at("at", 1<<30)}
			c.Extents = append(c.Extents, x)
			off += x.Len + at("gap", 8192)
			if x.Len <= 0 {
				break
			}
		}
	}
	return c
}

// writeOdd writes it and, if that was possible, checks what was written.
func writeOdd(t *rapid.T) *memory {
	entries, places := genOdd(t)
	m := &memory{}
	o := Options{Devices: []string{"a", "b"}}
	if rapid.Bool().Draw(t, "with a base") {
		b := &memory{}
		other, otherPlaces := genOdd(t)
		if writeEntries(b, o, other, otherPlaces) == nil {
			o.Base = b
		}
	}
	if err := writeEntries(m, o, entries, places); err != nil {
		_, err := Open(m)
		require.ErrorIs(t, err, ErrNotImage)
		return nil
	}
	require.NoError(t, verify(m))
	return m
}

func writeEntries(m *memory, o Options, entries []snapshot.Entry, places map[string]Content) error {
	_, err := Write(context.Background(), m, o, Entries(&snapshot.Manifest{Entries: entries}, func(e *snapshot.Entry) (Content, error) {
		return places[e.Path], nil
	}))
	return err
}

func FuzzWrite(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { writeOdd(t) }))
}

func TestOddManifests(t *testing.T) {
	written := 0
	rapid.Check(t, func(t *rapid.T) {
		if writeOdd(t) != nil {
			written++
		}
	})
	if !testing.Short() { // a fifth of the trees: once in a while none of them is in order
		require.NotZero(t, written, "the generator must be in order sometimes")
	}
}

// TestOddExtents: nothing is odd but where the content of one file lies. Among all that is
// odd in a tree of genOdd, extents are seldom what decides.
func TestOddExtents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := with("f", snapshot.TypeFile, nil)
		f.Size = rapid.OneOf(rapid.Int64Range(0, 5000), rapid.Int64Range(0, 1<<40)).Draw(t, "size")
		m := &memory{}
		c := genOddContent(t, f.Size)
		err := writeEntries(m, Options{Devices: []string{"a", "b"}}, []snapshot.Entry{with("", snapshot.TypeDir, nil), f},
			map[string]Content{"f": c})
		if err != nil {
			return
		}
		require.NoError(t, verify(m))
		end := int64(0)
		for _, x := range c.Extents { // where the kernel would look
			require.True(t, end <= x.Off && x.Off < x.Off+x.Len && x.Off+x.Len <= f.Size, "%+v of %d", x, f.Size)
			require.True(t, x.Off%512 == 0 && x.At%512 == 0 && 0 <= x.At && 0 <= x.Device && x.Device < 2, "%+v", x)
			end = x.Off + x.Len
		}
	})
}

// FuzzBase damages the image of a base: the writer must refuse it or make a good
// image all the same.
func FuzzBase(f *testing.F) {
	w := newWorld(f, 1)
	w.names()
	w.links(testRand(1))
	base, _ := w.written(w.options())
	small := &snapshot.Manifest{Entries: []snapshot.Entry{with("", snapshot.TypeDir, nil)}}
	for i := range 20 {
		small.Entries = append(small.Entries, with(string(rune('a'+i)), snapshot.TypeFifo, nil))
	}
	sb := &memory{}
	_, err := Write(f.Context(), sb, Options{}, Entries(small, nil))
	require.NoError(f, err)
	for _, at := range []uint32{superOffset, superOffset + 40, 1600, 4096, uint32(len(base.b)) - 900} {
		f.Add(at, []byte{0xff, 0xff}, true)
		f.Add(at, []byte{1}, false)
	}
	f.Fuzz(func(t *testing.T, at uint32, with []byte, large bool) {
		m, tree, o := small, Entries(small, nil), Options{}
		src := sb
		if large {
			m, tree, o, src = w.manifest(), w.tree(), w.options(), base
		}
		b := &memory{b: slices.Clone(src.b)}
		for i, c := range with {
			b.b[(int(at)+i)%len(b.b)] ^= c
		}
		sum := checksum(b.b[superOffset : superOffset+checksumSpan(9)])
		le.PutUint32(b.b[superOffset+4:], sum) // or nothing behind it would be looked at
		o.Base = b
		out := &memory{}
		if _, err := Write(t.Context(), out, o, tree); err != nil {
			require.ErrorIs(t, err, ErrBase)
			return
		}
		require.NoError(t, verify(out))
		require.Len(t, numbers(t, out), len(m.Entries))
	})
}
