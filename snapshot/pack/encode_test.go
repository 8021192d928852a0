package pack

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The chunk lists are a promise: they must not depend on how a file was stored.
func TestCut(t *testing.T) {
	island := make([]byte, 9<<20+5)
	copy(island[5<<20:], noise(70<<10, 1))
	atEnd := make([]byte, 1<<20+5)
	atEnd[1<<20+4] = 1
	type run struct{ off, len int64 }
	cases := []struct {
		name    string
		content []byte
		want    []run
	}{
		{"empty", nil, nil},
		{"one zero", []byte{0}, nil},
		{"one byte", []byte{1}, []run{{0, 1}}},
		{"cell of zeros", make([]byte, cellBytes), nil},
		{"last byte of a cell", append(make([]byte, cellBytes-1), 1), []run{{0, cellBytes}}},
		{"byte behind a cell", append(make([]byte, cellBytes), 1), []run{{cellBytes, 1}}},
		{"zeros within", append(append(noise(cellBytes, 1), make([]byte, cellBytes)...), 1), []run{{0, cellBytes}, {2 * cellBytes, 1}}},
		{"unaligned zeros", append(append(noise(cellBytes+1, 1), make([]byte, 2*cellBytes-2)...), 1), []run{{0, 3 * cellBytes}}},
		{"all but large", noise(largeBytes-1, 1), []run{{0, largeBytes - 1}}},
		{"large, with nothing in it", make([]byte, largeBytes), nil},
		{"large, with one byte", atEnd, []run{{1 << 20, 5}}},
		{"island", island, []run{{5 << 20, 2 * cellBytes}}},
	}
	w := newWorld(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var want []snapshot.Chunk
			for _, r := range c.want {
				h := hmac.New(sha256.New, testKey)
				h.Write(c.content[r.off : r.off+r.len])
				want = append(want, snapshot.Chunk{Off: r.off, Len: r.len, ID: snapshot.Digest(h.Sum(nil))})
			}
			ch := []snapshot.Change{w.file("f", c.content)}
			e := ch[0].Entry
			_, _, err := Encode(t.Context(), w.options(), ch)
			require.NoError(t, err)
			require.NoError(t, Hash(t.Context(), testKey, &e))
			require.True(t, slices.Equal(want, ch[0].Entry.Chunks), "encode: %+v", ch[0].Entry.Chunks)
			require.True(t, slices.Equal(want, e.Chunks), "hash: %+v", e.Chunks)
			require.True(t, e.Hashed())
		})
	}
}

func TestSparseFileIsNotRead(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	w := newWorld(t)
	src := filepath.Join(w.dir, "src", "sparse")
	f, err := os.Create(src)
	require.NoError(t, err)
	const size = 1 << 40 // reading it would take an hour
	_, err = f.WriteAt([]byte("island"), 700<<30+3)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	ch := []snapshot.Change{{Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Size: size, Source: src}}}
	ix, stats, err := Encode(t.Context(), w.options(), ch)
	require.NoError(t, err)
	require.Len(t, ch[0].Entry.Chunks, 1)
	require.Equal(t, int64(700<<30), ch[0].Entry.Chunks[0].Off)
	require.Equal(t, int64(cellBytes), stats.Plain)
	var got []byte
	require.NoError(t, Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: w.open}, func(i int, off int64, p []byte) error {
		require.Equal(t, int64(700<<30), off)
		got = append(got, p...)
		return nil
	}))
	require.Len(t, got, pageBytes, "only the page that holds something is written")
	require.Equal(t, "island", string(got[3:9]))
}

func TestDedup(t *testing.T) {
	w := newWorld(t)
	a, b := noise(300<<10, 1), noise(200<<10, 2)
	changes := []snapshot.Change{w.file("1", a), w.file("2", b), w.file("3", a), w.file("4", append(bytes.Clone(a), 1))}
	ix, stats, s := w.roundtrip(w.options(), changes)
	require.Equal(t, int64(3*300<<10+200<<10+1), stats.Plain)
	require.Equal(t, int64(2*300<<10+200<<10+1), stats.New, "the last one is another chunk: chunks are whole files")
	require.Len(t, ix.Chunks, 3)
	require.Equal(t, a, s.files[2])

	// A layer on top knows those chunks.
	known := ix.Locate()
	o := w.options()
	o.Known = func(d snapshot.Digest) (Location, bool) { l, ok := known[d]; return l, ok }
	changes = []snapshot.Change{w.file("5", b), w.file("6", text(5000, 3)), w.file("7", a)}
	ix2, stats, s := w.roundtrip(o, changes)
	require.Equal(t, int64(5000), stats.New)
	require.Equal(t, b, s.files[0])
	require.Len(t, ix2.Packs, 2)
	require.True(t, ix2.Packs[0].Own)
	require.False(t, ix2.Packs[1].Own)
	require.Equal(t, ix.Packs[0].Digest, ix2.Packs[1].Digest)

	// And one that has nothing new makes no pack, and reads no hashed file.
	changes[0].Entry.Source = "/nowhere"
	_, stats, err := Encode(t.Context(), o, changes[:1])
	require.NoError(t, err)
	require.Equal(t, Stats{Plain: 200 << 10, Elapsed: stats.Elapsed}, stats)
}

// What Known says is checked; what can't be is stored again.
func TestKnownNonsense(t *testing.T) {
	w := newWorld(t)
	good := Location{Pack: Pack{Digest: snapshot.Digest{1}, Bytes: 5000}, Frame: Frame{Off: 8, Stored: 3000, Plain: 3000}, Len: 3000}
	for name, change := range map[string]func(*Location){
		"length":           func(l *Location) { l.Len = 2999 },
		"leaves the frame": func(l *Location) { l.Off = 1 },
		"leaves the pack":  func(l *Location) { l.Pack.Bytes = 3007 },
		"no pack":          func(l *Location) { l.Pack.Digest = snapshot.Digest{} },
		"codec":            func(l *Location) { l.Frame.Codec = 7 },
	} {
		o := w.options()
		o.Known = func(snapshot.Digest) (Location, bool) { l := good; change(&l); return l, true }
		_, stats, err := Encode(t.Context(), o, []snapshot.Change{w.file("f", noise(3000, 1))})
		require.NoError(t, err, name)
		require.Equal(t, int64(3000), stats.New, name)
	}
	o := w.options()
	o.Known = func(snapshot.Digest) (Location, bool) { return good, true }
	_, stats, err := Encode(t.Context(), o, []snapshot.Change{w.file("f", noise(3000, 1))})
	require.NoError(t, err)
	require.Zero(t, stats.New)
}

func TestHashedContent(t *testing.T) {
	w := newWorld(t)
	content := noise(9<<20, 1)
	ch := w.file("f", content)
	require.NoError(t, Hash(t.Context(), testKey, &ch.Entry))

	// Hashed, but nobody has it: read by its chunks, whatever their bounds are.
	other := ch
	half := int64(len(content) / 3)
	other.Entry.Chunks = nil
	k := newKeyed(testKey)
	for off := int64(0); off < int64(len(content)); off += half {
		other.Entry.Chunks = append(other.Entry.Chunks, snapshot.Chunk{Off: off, Len: half, ID: k.id(content[off : off+half])})
	}
	_, stats, s := w.roundtrip(w.options(), []snapshot.Change{other})
	require.Equal(t, content, s.files[0])
	require.Equal(t, int64(len(content)), stats.New)

	t.Run("no source, but another file has it", func(t *testing.T) {
		lost := ch
		lost.Entry.Path, lost.Entry.Source = "e", ""
		_, _, s := w.roundtrip(w.options(), []snapshot.Change{lost, ch})
		require.Equal(t, content, s.files[0])
	})
	t.Run("no source and nobody has it", func(t *testing.T) {
		lost := ch
		lost.Entry.Source = ""
		_, _, err := Encode(t.Context(), w.options(), []snapshot.Change{lost})
		require.ErrorContains(t, err, "in no known pack")
	})
	t.Run("the file says something else", func(t *testing.T) {
		wrong := ch
		wrong.Entry.Chunks = slices.Clone(ch.Entry.Chunks)
		wrong.Entry.Chunks[1].ID[0] ^= 1
		_, _, err := Encode(t.Context(), w.options(), []snapshot.Change{wrong})
		requireCorrupt(t, err)
	})
}

func TestHardLinks(t *testing.T) {
	w := newWorld(t)
	a := w.file("a", text(5000, 1))
	a.Entry.Link = "a"
	b := a
	b.Entry.Path, b.Entry.Source = "b", "" // one name with a source is enough
	other := w.file("c", text(5000, 2))
	other.Entry.Link = "0" // of a group whose first name did not change
	changes := []snapshot.Change{b, a, other}
	slices.SortFunc(changes, func(x, y snapshot.Change) int { return snapshot.ComparePaths(x.Entry.Path, y.Entry.Path) })
	ix, stats, s := w.roundtrip(w.options(), changes)
	require.Equal(t, int64(10000), stats.Plain, "read once")
	require.Equal(t, ix.Changes[0].Entry.Chunks, ix.Changes[1].Entry.Chunks)
	require.Equal(t, text(5000, 1), s.files[0])
	require.Equal(t, make([]byte, 5000), s.files[1], "the second name is left to be linked")
	require.Equal(t, text(5000, 2), s.files[2])

	changes[1].Entry.Size++
	_, _, err := Encode(t.Context(), w.options(), changes)
	require.ErrorContains(t, err, "names of one file")
}

// The same changes make the same packs, whatever the number of workers, so a
// repeat after a crash leaves nothing behind.
func TestDeterministic(t *testing.T) {
	w := newWorld(t)
	var changes []snapshot.Change
	for i := range 300 {
		changes = append(changes, w.file(fmt.Sprintf("f%03d", i), text(i*300, uint64(i%50))))
	}
	changes = append(changes, w.file("z", noise(21<<20, 1)))
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		for i := range changes {
			changes[i].Entry.Chunks = nil
		}
		o := w.options()
		o.Workers = workers
		ix, _, err := Encode(t.Context(), o, changes)
		require.NoError(t, err)
		b := encodeIndex(t, ix)
		if first == nil {
			first = b
		}
		require.Equal(t, first, b, "%d workers", workers)
		require.Len(t, ix.Packs, 3)
		for _, p := range ix.Packs {
			require.Less(t, p.Bytes, int64(16<<20))
			require.NoError(t, packIs(filepath.Join(o.Dir, p.Digest.String()), p))
		}
	}
	list, err := os.ReadDir(filepath.Join(w.dir, "packs"))
	require.NoError(t, err)
	require.Len(t, list, 3)
}

func TestEncodeRefuses(t *testing.T) {
	w := newWorld(t)
	good := w.file("good", text(5000, 1))
	link := filepath.Join(w.dir, "src", "link")
	require.NoError(t, os.Symlink(good.Entry.Source, link))
	cases := []struct {
		name   string
		change func(*snapshot.Entry)
		want   string
	}{
		{"grew", func(e *snapshot.Entry) { e.Size-- }, "has 5000 bytes and should have 4999"},
		{"shrank", func(e *snapshot.Entry) { e.Size++ }, "should have 5001"},
		{"gone", func(e *snapshot.Entry) { e.Source += "x" }, "no such file"},
		{"a directory", func(e *snapshot.Entry) { e.Source = w.dir }, ""},
		{"no source", func(e *snapshot.Entry) { e.Source = "" }, "nowhere to read it"},
		{"a link", func(e *snapshot.Entry) { e.Source = link }, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			bad := good
			bad.Entry.Path = "late"
			c.change(&bad.Entry)
			changes := []snapshot.Change{good, bad}
			_, _, err := Encode(t.Context(), w.options(), changes)
			require.ErrorContains(t, err, c.want)
			require.Nil(t, changes[0].Entry.Chunks, "changes are as they were")
			err = Hash(t.Context(), testKey, &bad.Entry)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, _, err := Encode(t.Context(), EncoderOptions{}, nil)
	require.ErrorContains(t, err, "no domain key")
}

func TestEncodeCancelled(t *testing.T) {
	w := newWorld(t)
	var changes []snapshot.Change
	for i := range 12 {
		changes = append(changes, w.file(fmt.Sprintf("f%02d", i), noise(5<<20, uint64(i))))
	}
	for _, after := range []int64{0, 1, 5, 14} {
		ctx, cancel := context.WithCancel(t.Context())
		o := w.options()
		var seen atomic.Int64
		o.Known = func(snapshot.Digest) (Location, bool) {
			if seen.Add(1) > after {
				cancel()
			}
			return Location{}, false
		}
		_, _, err := Encode(ctx, o, changes)
		cancel()
		require.ErrorIs(t, err, context.Canceled)
		left, err := os.ReadDir(o.Tmp)
		require.NoError(t, err)
		require.Empty(t, left)
		fds(t, w.dir)
	}
}

// fds fails if this process has a file below dir open.
func fds(t *testing.T, dir string) {
	list, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	require.NoError(t, err)
	for _, f := range list {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil {
			require.NotContains(t, to, dir)
		}
	}
}

func TestEncodeCantWrite(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Tmp = filepath.Join(w.dir, "absent")
	_, _, err := Encode(t.Context(), o, []snapshot.Change{w.file("f", noise(100, 1))})
	require.ErrorIs(t, err, os.ErrNotExist)
	o = w.options()
	o.Dir = filepath.Join(w.dir, "absent")
	_, _, err = Encode(t.Context(), o, []snapshot.Change{w.file("f", noise(30<<20, 1))})
	require.ErrorIs(t, err, os.ErrNotExist)
	left, err := os.ReadDir(o.Tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	fds(t, w.dir)
}

func TestEncodeNothing(t *testing.T) {
	w := newWorld(t)
	ix, stats, _ := w.roundtrip(w.options(), []snapshot.Change{
		{Delete: true, Entry: snapshot.Entry{Path: "a"}},
		{Entry: snapshot.Entry{Path: "b", Type: snapshot.TypeSymlink, Target: "c"}},
		w.file("d", nil),
	})
	require.Empty(t, ix.Packs)
	require.Zero(t, stats.Stored)
}
