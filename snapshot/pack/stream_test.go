package pack

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// streamWorld is a layer of which a Stream may get something wrong: contents that are
// there several times, holes, links between parts, what other packs know, and hashed
// files among others. It returns content by path, and options.
func streamWorld(t *testing.T, w *world) (changes []snapshot.Change, content map[string][]byte, o EncoderOptions) {
	content = map[string][]byte{}
	put := func(b []byte) *snapshot.Entry {
		p := fmt.Sprintf("d%d/f%03d", len(changes)/10, len(changes))
		changes = append(changes, w.file(p, b))
		content[p] = b
		return &changes[len(changes)-1].Entry
	}
	known := []snapshot.Change{w.file("k", noise(9000, 90)), w.file("l", text(40<<10, 91))}
	ix, _, err := Encode(t.Context(), w.options(), known)
	require.NoError(t, err)
	where := ix.Locate()
	o = w.options()
	o.Known = func(d snapshot.Digest) (Location, bool) { l, ok := where[d]; return l, ok }
	for i := range 60 {
		put(text(i*200, uint64(i%25)))
	}
	put(nil)
	put(make([]byte, 300<<10))
	put(append(make([]byte, 200<<10), noise(80<<10, 1)...))
	put(noise(3<<20, 2))
	hashed := put(text(50<<10, 3))
	require.NoError(t, Hash(t.Context(), testKey, hashed))
	put(text(40<<10, 91)) // known
	again := put(noise(9000, 90))
	require.NoError(t, Hash(t.Context(), testKey, again))
	first := put(noise(5000, 4)).Path
	for range 20 {
		put(noise(700, uint64(len(changes))))
	}
	put(noise(5000, 4))
	for i := range changes {
		if e := &changes[i].Entry; i == len(changes)-1 || e.Path == first {
			e.Link = first
		}
	}
	changes = append(changes,
		snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: "e"}},
		snapshot.Change{Replace: true, Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeDir}},
		snapshot.Change{Entry: snapshot.Entry{Path: "f/l", Type: snapshot.TypeSymlink, Target: "to"}},
	)
	return changes, content, o
}

// A Stream makes the layer that Encode makes, whatever its parts are.
func TestStream(t *testing.T) {
	w := newWorld(t)
	changes, content, o := streamWorld(t, w)
	whole := slices.Clone(changes)
	want, wantStats, err := Encode(t.Context(), o, whole)
	require.NoError(t, err)
	want.Manifest = snapshot.Digest{1}
	for _, size := range []int{1, 7, 64, len(changes)} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			st, err := NewStream(o, len(content))
			require.NoError(t, err)
			defer st.Close()
			var got []snapshot.Change
			for part := range slices.Chunk(slices.Clone(changes), size) {
				require.NoError(t, st.Add(t.Context(), part))
				got = append(got, part...)
			}
			require.Equal(t, whole, got)
			ix, stats, err := st.Finish(t.Context())
			require.NoError(t, err)
			require.Equal(t, []int64{wantStats.Plain, wantStats.New}, []int64{stats.Plain, stats.New})
			ix.Manifest = want.Manifest
			var told []snapshot.Change
			require.NoError(t, st.Each(func(ch *snapshot.Change) error { told = append(told, *ch); return nil }))
			var b bytes.Buffer
			_, err = st.WriteIndex(&b, ix)
			require.NoError(t, err)
			if size == len(changes) {
				require.Equal(t, encodeIndex(t, want), b.Bytes())
			}
			back, err := ReadIndex(&b)
			require.NoError(t, err)
			again, err := ReadIndex(bytes.NewReader(encodeIndex(t, want)))
			require.NoError(t, err)
			require.Equal(t, again.Changes, back.Changes)
			require.Equal(t, back.Changes, told)
			s := newSink(back)
			require.NoError(t, Extract(t.Context(), back, ExtractOptions{Key: testKey, Open: w.open}, s.write))
			for i, c := range back.Changes {
				if f := s.files[i]; f != nil && (c.Entry.Link == "" || c.Entry.Link == c.Entry.Path) {
					require.True(t, bytes.Equal(content[c.Entry.Path], f), c.Entry.Path)
				}
			}
		})
	}
}

// What goes wrong in a later part ends it, and leaves no temporary file.
func TestStreamRefuses(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	begin := func(first ...snapshot.Change) *Stream {
		st, err := NewStream(o, 3)
		require.NoError(t, err)
		require.NoError(t, st.Add(t.Context(), first))
		return st
	}
	linked := w.file("b", noise(3000, 1))
	linked.Entry.Link = "b"
	for _, c := range []struct {
		name   string
		change func(*snapshot.Entry)
		want   string
	}{
		{"a link of another size", func(e *snapshot.Entry) { e.Link = "b" }, "names of one file"},
		{"out of order", func(e *snapshot.Entry) { e.Path = "a" }, "out of order"},
		{"gone", func(e *snapshot.Entry) { e.Source += "x" }, "no such file"},
		{"nowhere", func(e *snapshot.Entry) { e.Source = "" }, "nowhere to read it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := begin(linked)
			bad := w.file("c", noise(2000, 2))
			c.change(&bad.Entry)
			require.ErrorContains(t, st.Add(t.Context(), []snapshot.Change{bad}), c.want)
			st.Close()
			left, err := os.ReadDir(filepath.Join(w.dir, "tmp"))
			require.NoError(t, err)
			require.Empty(t, left)
			fds(t, w.dir)
		})
	}
	_, err := NewStream(EncoderOptions{}, 0)
	require.ErrorContains(t, err, "no domain key")
}
