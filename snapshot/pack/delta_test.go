package pack

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// line is one file in one layer after the other.
type line struct {
	w     *world
	known map[snapshot.Digest]Location
	prev  *snapshot.Entry
	stays bool // the base's files can be read
}

func newLine(w *world) *line { return &line{w: w, known: map[snapshot.Digest]Location{}} }

func (l *line) options() EncoderOptions {
	o := l.w.options()
	o.Known = func(d snapshot.Digest) (Location, bool) { at, ok := l.known[d]; return at, ok }
	o.Previous = func(path string) *snapshot.Entry {
		if l.prev != nil && l.prev.Path == path {
			return l.prev
		}
		return nil
	}
	return o
}

// next packs the file's next version, on the versions before.
func (l *line) next(content []byte) (*Index, Stats) {
	l.w.t.Helper()
	ch := []snapshot.Change{l.w.file("f", content)}
	ix, stats, s := l.w.roundtrip(l.options(), ch)
	require.True(l.w.t, bytes.Equal(content, s.files[0]), "other content came out")
	for d, at := range ix.Locate() {
		l.known[d] = at
	}
	l.prev = &ix.Changes[0].Entry
	if l.stays {
		l.prev.Source = ch[0].Entry.Source
	} else {
		require.NoError(l.w.t, os.Remove(ch[0].Entry.Source))
	}
	return ix, stats
}

// edits are what jobs do to large files. Ideal is the bytes that nobody can know.
var edits = []struct {
	name string
	most float64 // new bytes, in percent of the file
	near float64 // the same, when what the base had can be read
	edit func(b []byte) []byte
}{
	{"nothing", 0, 0, func(b []byte) []byte { return b }},
	{"1% overwritten in pieces of 64 KiB", 2.6, 1.3, overwrite(0.01)},
	{"10% overwritten in pieces of 64 KiB", 22, 13, overwrite(0.1)},
	{"53 bytes put in", 0.6, 0.3, func(b []byte) []byte { return slices.Insert(bytes.Clone(b), len(b)/3, noise(53, 9)...) }},
	{"53 bytes put before all", 0.6, 0.3, func(b []byte) []byte { return append(noise(53, 9), b...) }},
	{"53 bytes taken out", 0.6, 0.3, func(b []byte) []byte { return slices.Delete(bytes.Clone(b), len(b)/3, len(b)/3+53) }},
	{"1000 bytes appended", 0.3, 0.3, func(b []byte) []byte { return append(bytes.Clone(b), noise(1000, 9)...) }},
	{"1 MiB appended", 2, 2, func(b []byte) []byte { return append(bytes.Clone(b), noise(1<<20, 9)...) }},
	{"cut to a half", 0.3, 0.3, func(b []byte) []byte { return b[:len(b)/2+1] }},
}

func overwrite(share float64) func(b []byte) []byte {
	return func(b []byte) []byte {
		const piece = 64 << 10
		b = bytes.Clone(b)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range int(float64(len(b)) * share / piece) {
			copy(b[r.IntN(len(b)-piece):], noise(piece, uint64(i)+1000))
		}
		return b
	}
}

// TestDeltas is the promise: what is new of a large file is not much more than what
// changed.
func TestDeltas(t *testing.T) {
	const size = 64 << 20
	w := newWorld(t)
	first := newLine(w)
	first.stays = true
	content := noise(size, 1)
	_, stats := first.next(content)
	require.Equal(t, int64(size), stats.New)
	for _, near := range []bool{false, true} {
		for _, c := range edits {
			t.Run(fmt.Sprintf("%s/near=%v", c.name, near), func(t *testing.T) {
				l := *first
				l.known = maps.Clone(first.known)
				prev := *first.prev
				if l.stays, l.prev = false, &prev; !near {
					prev.Source = ""
				}
				l.w = &world{t: t, dir: w.dir, next: w.next + 1000}
				ix, stats := l.next(c.edit(content))
				got, most := float64(stats.New)/size*100, c.most
				t.Logf("%.2f %%", got)
				if near {
					most = c.near
				}
				require.LessOrEqual(t, got, most)
				requireSizes(t, ix)
				if c.most == 0 {
					require.Equal(t, first.prev.Chunks, l.prev.Chunks)
				}
			})
		}
	}
}

// requireSizes checks that neither chunks nor frames fall to pieces.
func requireSizes(t *testing.T, ix *Index) {
	t.Helper()
	var plain, frames int64
	for i, f := range ix.Frames {
		if own := ix.Packs[f.Pack].Own; own && i < len(ix.Frames)-1 {
			plain, frames = plain+int64(f.Plain), frames+1
		}
		require.LessOrEqual(t, f.Plain, uint32(frameBytes))
	}
	if frames > 1 {
		require.Greater(t, plain/frames, int64(frameBytes/2), "frames are small")
	}
	for _, c := range ix.Changes[0].Entry.Chunks {
		require.LessOrEqual(t, c.Len, int64(lookAhead))
	}
	n := len(ix.Changes[0].Entry.Chunks)
	require.Greater(t, ix.Changes[0].Entry.Size/int64(n), int64(minCut), "%d chunks", n)
}

// A file that every job changes is as well cut after many as after one.
func TestDeltasDoNotFray(t *testing.T) {
	t.Run("far", func(t *testing.T) { testFray(t, false) })
	t.Run("near", func(t *testing.T) { testFray(t, true) })
}

func testFray(t *testing.T, near bool) {
	w := newWorld(t)
	l := newLine(w)
	l.stays = near
	content := noise(4<<20, 1)
	l.next(content)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 60 {
		switch i % 4 {
		case 0:
			copy(content[r.IntN(len(content)-5000):], noise(5000, uint64(i)))
		case 1:
			content = append(content, noise(700, uint64(i))...)
		case 2:
			content = slices.Insert(content, r.IntN(len(content)), noise(100, uint64(i))...)
		case 3:
			at := r.IntN(len(content) - 3000)
			content = slices.Delete(content, at, at+3000)
		}
		_, stats := l.next(content)
		require.LessOrEqual(t, stats.New, int64(700<<10), "edit %d", i)
	}
	require.Less(t, len(l.prev.Chunks), 2*4<<20/aimCut)
	fresh := newLine(w)
	ix, _ := fresh.next(content)
	requireSizes(t, ix)
}

// Files of old layers are in chunks of up to 4 MiB: what is the same stays.
func TestPreviousFormat(t *testing.T) {
	w := newWorld(t)
	l := newLine(w)
	content := noise(13<<20, 1)
	k := newKeyed(testKey)
	ch := []snapshot.Change{w.file("f", content)}
	for off := 0; off < len(content); off += 4 << 20 {
		end := min(off+4<<20, len(content))
		ch[0].Entry.Chunks = append(ch[0].Entry.Chunks, snapshot.Chunk{Off: int64(off), Len: int64(end - off), ID: k.id(content[off:end])})
	}
	ix, _, err := Encode(t.Context(), l.options(), ch)
	require.NoError(t, err)
	l.prev, l.known = &ch[0].Entry, ix.Locate()
	old := ch[0].Entry.Chunks
	content[5<<20] ^= 1
	_, stats := l.next(content)
	require.Equal(t, int64(partGrain), stats.New)
	require.Equal(t, old[0], l.prev.Chunks[0])
	require.Equal(t, old[2:], l.prev.Chunks[len(l.prev.Chunks)-2:])
	content[5<<20] ^= 1
	_, stats = l.next(content)
	require.Less(t, stats.New, int64(200<<10))
}

// Without the ancestor's packs everything is stored again, in the same chunks.
func TestPreviousOfNoPack(t *testing.T) {
	w := newWorld(t)
	l := newLine(w)
	content := noise(5<<20, 1)
	l.next(content)
	was := l.prev.Chunks
	clear(l.known)
	_, stats := l.next(content)
	require.Equal(t, int64(len(content)), stats.New)
	require.Equal(t, was, l.prev.Chunks)
}

// What Previous says must not lead astray.
func TestPreviousNonsense(t *testing.T) {
	w := newWorld(t)
	content := noise(2<<20, 1)
	for name, prev := range map[string]*snapshot.Entry{
		"directory":    {Path: "f", Type: snapshot.TypeDir},
		"not hashed":   {Path: "f", Type: snapshot.TypeFile, Size: 5 << 20},
		"overlapping":  {Path: "f", Type: snapshot.TypeFile, Size: 5 << 20, Chunks: []snapshot.Chunk{{Len: 9}, {Off: 8, Len: 9}}},
		"too long":     {Path: "f", Type: snapshot.TypeFile, Size: 5 << 20, Chunks: []snapshot.Chunk{{Len: 5 << 20}}},
		"beyond us":    {Path: "f", Type: snapshot.TypeFile, Size: 9 << 20, Chunks: []snapshot.Chunk{{Off: 1 << 20, Len: 2 << 20}, {Off: 8 << 20, Len: 9}}},
		"other":        {Path: "f", Type: snapshot.TypeFile, Size: 2 << 20, Chunks: []snapshot.Chunk{{Len: 2 << 20}}},
		"in the midst": {Path: "f", Type: snapshot.TypeFile, Size: 2 << 20, Chunks: []snapshot.Chunk{{Off: 77, Len: 1, ID: newKeyed(testKey).id(content[77:78])}}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(&world{t: t, dir: w.dir})
			l.prev = prev
			l.next(content)
		})
	}
}

// genEdited draws a content and what it became. keep is how much of its head and its
// tail is the same.
func genEdited(rt *rapid.T) (before, after []byte, head, tail int) {
	size := rapid.IntRange(1<<20, 3<<20).Draw(rt, "size")
	before = noise(size, rapid.Uint64Range(0, 3).Draw(rt, "seed"))
	if rapid.Bool().Draw(rt, "sparse") {
		at := rapid.IntRange(0, size-1).Draw(rt, "hole")
		clear(before[at:min(size, at+rapid.IntRange(0, 600<<10).Draw(rt, "zeros"))])
	}
	after, head, tail = bytes.Clone(before), size, size
	for i := range rapid.IntRange(0, 4).Draw(rt, "edits") {
		at := rapid.IntRange(0, len(after)).Draw(rt, "at")
		n := rapid.SampledFrom([]int{1, 53, 4096, 65536, 200_000, 1 << 20}).Draw(rt, "n")
		end := min(len(after), at+n)
		was := len(after)
		switch rapid.SampledFrom([]string{"write", "zero", "insert", "delete", "truncate"}).Draw(rt, "edit") {
		case "write":
			copy(after[at:end], noise(n, uint64(i)+50))
		case "zero":
			clear(after[at:end])
		case "insert":
			after, end = slices.Insert(after, at, noise(n, uint64(i)+50)...), at
		case "delete":
			after = slices.Delete(after, at, end)
		case "truncate":
			after, end = after[:at], was
		}
		head, tail = min(head, at), min(tail, was-end)
	}
	return before, after, head, tail
}

// Whatever was done to a file: the chunks are its content, they depend on the
// content and the base alone, and what is before the first change and behind the
// last is used again.
func TestDeltaProperties(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		before, after, head, tail := genEdited(rt)
		l := newLine(w)
		l.stays = rapid.Bool().Draw(rt, "near")
		l.next(before)
		was := *l.prev
		known := l.known
		l.next(after)
		now := l.prev
		checkChunks(rt, after, now.Chunks)

		ids := map[snapshot.Digest]bool{}
		for _, c := range now.Chunks {
			ids[c.ID] = true
		}
		for _, c := range was.Chunks {
			if c.Len < minCut || len(after) < largeBytes {
				continue // short ones beside a change are cut anew
			}
			if c.Off+c.Len <= int64(head) {
				require.Contains(rt, now.Chunks, c, "of the head")
			}
			if c.Off >= int64(len(before)-tail) {
				require.True(rt, ids[c.ID], "a chunk of the tail is not there")
			}
		}

		// Once more with other workers, and from a file without holes.
		for _, workers := range []int{1, 3} {
			l := newLine(w)
			l.prev, l.known = &was, known
			o := l.options()
			o.Workers = workers
			ch := []snapshot.Change{w.file("f", after)}
			_, _, err := Encode(rt.Context(), o, ch)
			require.NoError(rt, err)
			require.True(rt, slices.Equal(now.Chunks, ch[0].Entry.Chunks), "%d workers", workers)
		}
		for _, dir := range []string{"packs", "src"} { // or the disk fills
			require.NoError(rt, os.RemoveAll(filepath.Join(w.dir, dir)))
			require.NoError(rt, os.Mkdir(filepath.Join(w.dir, dir), 0o700))
		}
	})
}

func checkChunks(rt require.TestingT, content []byte, chunks []snapshot.Chunk) {
	k := newKeyed(testKey)
	built := make([]byte, len(content))
	var end int64
	for _, c := range chunks {
		require.GreaterOrEqual(rt, c.Off, end)
		end = c.Off + c.Len
		require.LessOrEqual(rt, end, int64(len(content)))
		require.Equal(rt, k.id(content[c.Off:end]), c.ID)
		copy(built[c.Off:], content[c.Off:end])
	}
	require.True(rt, bytes.Equal(content, built), "what is in no chunk is not zero")
}

// Cutting goes on to the end, and forgets what was 64 bytes ago.
func FuzzNextCut(f *testing.F) {
	f.Add(uint64(1), 300_000, 1000)
	f.Add(uint64(2), minCut, 1)
	f.Add(uint64(3), lookAhead+1, 64)
	f.Fuzz(func(t *testing.T, seed uint64, n, shift int) {
		n, shift = max(1, n&0x3fffff), max(0, shift&0xffff)
		p := noise(n, seed)
		bounds := map[int]bool{}
		for at := 0; at < n; {
			c := nextCut(p[at:])
			require.Positive(t, c)
			require.LessOrEqual(t, c, min(lookAhead, n-at))
			if at+c < n {
				require.GreaterOrEqual(t, c, minCut)
				require.Equal(t, c, nextCut(p[at:min(n, at+lookAhead)]), "the end is not far enough to matter")
			}
			at += c
			bounds[at] = true
		}
		if n < 3<<20 {
			return
		}
		found := 0
		for at := shift; at < n; {
			at += nextCut(p[at:])
			if bounds[at] {
				found++
			}
		}
		require.Greater(t, found, len(bounds)/4)
	})
}

func BenchmarkDeltas(b *testing.B) {
	const size = 256 << 20
	content := noise(size, 1)
	for _, c := range edits {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			l := newLine(w)
			l.next(content)
			ch := []snapshot.Change{w.file("f", c.edit(content))}
			o := l.options()
			b.SetBytes(size)
			var stats Stats
			for b.Loop() {
				ch[0].Entry.Chunks = nil
				var err error
				_, stats, err = Encode(b.Context(), o, ch)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(stats.New)/size*100, "%new")
		})
	}
}

func BenchmarkCut(b *testing.B) {
	p := noise(32<<20, 1)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		for at := 0; at < len(p); {
			at += nextCut(p[at:])
		}
	}
}
