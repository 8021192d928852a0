package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// memory serves packs from memory and counts.
type memory struct {
	mu    sync.Mutex
	packs map[snapshot.Digest][]byte
	opens int
	bytes int64
}

func (w *world) memory(ix *Index) *memory {
	m := &memory{packs: map[snapshot.Digest][]byte{}}
	for _, p := range ix.Packs {
		b, err := os.ReadFile(filepath.Join(w.dir, "packs", p.Digest.String()))
		require.NoError(w.t, err)
		m.packs[p.Digest] = b
	}
	return m
}

func (m *memory) open(_ context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opens++
	m.bytes += n
	b := m.packs[d]
	if off > int64(len(b)) {
		return nil, io.ErrUnexpectedEOF
	}
	return io.NopCloser(bytes.NewReader(b[off:min(off+n, int64(len(b)))])), nil
}

// Every flipped bit of a pack is found, or is in a byte that no frame needs; every
// cut is found.
func TestPackDamage(t *testing.T) {
	w, ix := smallIndex(t)
	m := w.memory(ix)
	d := ix.Packs[0].Digest
	good := m.packs[d]
	extract := func(b []byte) (*sink, error) {
		m.packs[d] = b
		s := newSink(ix)
		return s, Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: m.open}, s.write)
	}
	want, err := extract(good)
	require.NoError(t, err)
	harmless := 0
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			s, err := extract(b)
			if i < packHeader {
				require.NoError(t, err)
				require.Equal(t, want.files, s.files)
				continue
			}
			if err != nil {
				requireCorrupt(t, err, "byte %d bit %d", i, bit)
				continue
			}
			// zstd has bits that mean nothing.
			require.Equal(t, want.files, s.files, "byte %d bit %d", i, bit)
			harmless++
		}
		_, err := extract(good[:i])
		require.Error(t, err, "cut at %d", i)
	}
	require.Less(t, harmless, 10)
}

func TestExtractRefuses(t *testing.T) {
	w, _ := smallIndex(t)
	fresh := func() *Index {
		_, ix := smallIndex(t)
		w = &world{t: t, dir: filepath.Dir(filepath.Dir(ix.Changes[1].Entry.Source))}
		return ix
	}
	cases := []struct {
		name   string
		change func(*Index)
		want   string
	}{
		{"plain size too small", func(ix *Index) {
			ix.Frames[0].Plain--
			ix.Chunks[1].Off--
		}, "another size"},
		{"plain size too large", func(ix *Index) { ix.Frames[0].Plain++ }, "another size"},
		{"stored size too small", func(ix *Index) { ix.Frames[0].Stored-- }, ""},
		{"codec", func(ix *Index) { ix.Frames[0].Codec, ix.Frames[0].Plain = CodecRaw, ix.Frames[0].Stored }, ""},
		{"chunk moved", func(ix *Index) { ix.Chunks[0].Off++ }, "digest does not match"},
		{"chunks swapped", func(ix *Index) { ix.Chunks[0].ID, ix.Chunks[1].ID = ix.Chunks[1].ID, ix.Chunks[0].ID }, "chunk"},
		{"chunk missing", func(ix *Index) { ix.Chunks = ix.Chunks[:1] }, "is in no frame"},
		{"not hashed", func(ix *Index) { ix.Changes[1].Entry.Chunks = nil }, "not hashed"},
		{"chunk outside of the file", func(ix *Index) { ix.Changes[1].Entry.Size-- }, "does not fit"},
		{"frame's pack", func(ix *Index) { ix.Frames[0].Pack = 1 }, "out of range"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ix := fresh()
			require.Len(t, ix.Frames, 1)
			require.Equal(t, CodecZstd, ix.Frames[0].Codec)
			c.change(ix)
			err := Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: w.open}, newSink(ix).write)
			require.ErrorContains(t, err, c.want)
		})
	}
	ix := fresh()
	err := Extract(t.Context(), ix, ExtractOptions{Key: []byte("another"), Open: w.open}, newSink(ix).write)
	requireCorrupt(t, err)
	require.ErrorContains(t, err, "digest does not match")
	err = Extract(t.Context(), ix, ExtractOptions{Open: w.open}, newSink(ix).write)
	require.ErrorContains(t, err, "no domain key")
}

// A frame that decompresses to much more than the index says must not be
// decompressed at all, and memory must stay small.
func TestBombs(t *testing.T) {
	huge := compress(nil, make([]byte, 256<<20))
	noSize := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58}, huge[9:]...) // window, no size
	wide := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff}, huge[9:]...)   // of a window of 3.75 TiB
	lies := bytes.Clone(huge)
	lies[5], lies[6], lies[7], lies[8] = 0, 0, 4, 0 // says 256 KiB
	require.Equal(t, byte(0xa0), huge[4], "single segment, 4 bytes of size")
	for name, frame := range map[string][]byte{"honest": huge, "no size": noSize, "wide": wide, "lies": lies} {
		t.Run(name, func(t *testing.T) {
			ix := &Index{
				Packs:  []Pack{{Digest: snapshot.Digest{1}, Bytes: packHeader + int64(len(frame)), Own: true}},
				Frames: []Frame{{Off: packHeader, Stored: uint32(len(frame)), Plain: 256 << 10, Codec: CodecZstd}},
				Chunks: []ChunkRef{{ID: snapshot.Digest{2}, Len: 100}},
				Changes: []snapshot.Change{{Entry: snapshot.Entry{
					Path: "f", Type: snapshot.TypeFile, Size: 100,
					Chunks: []snapshot.Chunk{{Len: 100, ID: snapshot.Digest{2}}},
				}}},
			}
			m := &memory{packs: map[snapshot.Digest][]byte{{1}: append(make([]byte, packHeader), frame...)}}
			before := allocated()
			err := Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: m.open}, newSink(ix).write)
			requireCorrupt(t, err)
			require.Less(t, allocated()-before, uint64(8<<20))
		})
	}
}

// allocated is how much was ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestExtractFetchesLittle(t *testing.T) {
	w := newWorld(t)
	var changes []snapshot.Change
	for i := range 40 {
		changes = append(changes, w.file(fmt.Sprintf("f%02d", i), noise(900<<10, uint64(i))))
	}
	ix, _, err := Encode(t.Context(), w.options(), changes)
	require.NoError(t, err)
	m := w.memory(ix)
	o := ExtractOptions{Key: testKey, Open: m.open}
	s := newSink(ix)
	require.NoError(t, Extract(t.Context(), ix, o, s.write))
	require.Equal(t, noise(900<<10, 33), s.files[33])
	require.LessOrEqual(t, m.opens, len(ix.Packs)*4, "neighbours are fetched as one")

	// A descendant that needs one of them fetches that one's frame.
	m.opens, m.bytes = 0, 0
	few := *ix
	few.Changes = ix.Changes[17:18]
	s = newSink(&few)
	require.NoError(t, Extract(t.Context(), &few, o, s.write))
	require.Equal(t, noise(900<<10, 17), s.files[0])
	require.Equal(t, 1, m.opens)
	require.Less(t, m.bytes, int64(1<<20))

	// Two frames with a gap that is not worth a request, and one that is.
	m.opens, m.bytes = 0, 0
	few.Changes = []snapshot.Change{ix.Changes[0], ix.Changes[5]}
	require.NoError(t, Extract(t.Context(), &few, o, newSink(&few).write))
	require.Equal(t, 2, m.opens)
	require.Less(t, m.bytes, int64(2<<20))
}

func TestRanges(t *testing.T) {
	frame := func(pack int, off int64, n uint32) Frame {
		return Frame{Pack: pack, Off: off, Stored: n, Plain: n}
	}
	ix := &Index{Frames: []Frame{
		frame(0, 8, 100), frame(0, 108, 100), frame(0, 208+maxGap, 100),
		frame(0, 309+2*maxGap, 100), frame(1, 8, 100), frame(1, 108, maxRange), frame(1, 108+maxRange, 50),
	}}
	p := &extractPlan{ix: ix, uses: make([][]use, len(ix.Frames))}
	for i := range p.uses {
		p.uses[i] = []use{{}}
	}
	require.Equal(t, []span{
		{8, 308 + maxGap, []int{0, 1, 2}},
		{309 + 2*maxGap, 409 + 2*maxGap, []int{3}},
		{8, 108, []int{4}},
		{108, 108 + maxRange, []int{5}},
		{108 + maxRange, 158 + maxRange, []int{6}},
	}, p.ranges())
	p.uses[1] = nil
	require.Equal(t, []span{{8, 108, []int{0}}}, p.ranges()[:1], "the gap is what is not needed, too")
}

func TestExtractErrors(t *testing.T) {
	w := newWorld(t)
	var changes []snapshot.Change
	for i := range 30 {
		changes = append(changes, w.file(fmt.Sprintf("f%02d", i), noise(600<<10, uint64(i))))
	}
	ix, _, err := Encode(t.Context(), w.options(), changes)
	require.NoError(t, err)
	boom := errors.New("boom")
	discard := func(int, int64, []byte) error { return nil }

	t.Run("write", func(t *testing.T) {
		err := Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: w.open}, func(i int, _ int64, _ []byte) error {
			if i == 20 {
				return boom
			}
			return nil
		})
		require.ErrorIs(t, err, boom)
		require.ErrorContains(t, err, `"f20"`)
		fds(t, w.dir)
	})
	t.Run("open", func(t *testing.T) {
		err := Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: func(context.Context, snapshot.Digest, int64, int64) (io.ReadCloser, error) {
			return nil, boom
		}}, discard)
		require.ErrorIs(t, err, boom)
	})
	t.Run("short body", func(t *testing.T) {
		err := Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
			return w.open(ctx, d, off, n-1)
		}}, discard)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		fds(t, w.dir)
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := Extract(ctx, ix, ExtractOptions{Key: testKey, Open: w.open}, func(int, int64, []byte) error {
			cancel()
			return nil
		})
		require.ErrorIs(t, err, context.Canceled)
		fds(t, w.dir)
	})
}

// What is in memory at once does not grow with the layer.
func TestMemoryIsBounded(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector pools drop buffers at random")
	}
	w := newWorld(t)
	var changes []snapshot.Change
	for i := range 12 {
		changes = append(changes, w.file(fmt.Sprintf("f%02d", i), bytes.Repeat(text(1<<20, uint64(i)), 10)))
	}
	o := w.options()
	o.Workers = 2
	peak := peakHeap(func() {
		_, _, err := Encode(t.Context(), o, changes)
		require.NoError(t, err)
	})
	t.Logf("encode: %d MiB", peak>>20)
	require.Less(t, peak, uint64(96<<20), "encode of 120 MiB")
	ix, _, err := Encode(t.Context(), o, changes)
	require.NoError(t, err)
	peak = peakHeap(func() {
		require.NoError(t, Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: w.open, Workers: 2},
			func(int, int64, []byte) error { return nil }))
	})
	t.Logf("extract: %d MiB", peak>>20)
	require.Less(t, peak, uint64(64<<20), "extract of 120 MiB")
}

// peakHeap samples by how much the heap grows while f runs.
func peakHeap(f func()) uint64 {
	runtime.GC()
	runtime.GC() // what pools hold goes with the second one
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	done, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var top uint64
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			top = max(top, m.HeapAlloc)
			select {
			case <-done:
				peak <- top - min(top, before.HeapAlloc)
				return
			default:
				time.Sleep(time.Millisecond)
			}
		}
	}()
	f()
	close(done)
	return <-peak
}

// What the base has on disk is not fetched; if it is not what it should be, it is.
func TestExtractFromBase(t *testing.T) {
	w := newWorld(t)
	l := newLine(w)
	content := noise(6<<20, 1)
	small := w.file("s", text(5000, 1))
	l.next(content)
	base := *l.prev
	base.Source = w.file("base", content).Entry.Source
	content = append(noise(100, 2), content...)
	content[3<<20] ^= 1
	ix, stats := l.next(content)
	require.Less(t, stats.New, int64(500<<10))
	for name, c := range map[string]struct {
		change func(prev *snapshot.Entry)
		most   int64
	}{
		"as it is":      {func(*snapshot.Entry) {}, stats.New + 1000},
		"gone":          {func(e *snapshot.Entry) { e.Source += "x" }, 7 << 20},
		"no source":     {func(e *snapshot.Entry) { e.Source = "" }, 7 << 20},
		"shorter":       {func(e *snapshot.Entry) { e.Source = small.Entry.Source }, 7 << 20},
		"other content": {func(e *snapshot.Entry) { e.Source = w.file("o", noise(6<<20, 5)).Entry.Source }, 7 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			prev := base
			c.change(&prev)
			var fetched atomic.Int64
			s := newSink(ix)
			err := Extract(t.Context(), ix, ExtractOptions{
				Key: testKey, Open: func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
					fetched.Add(n)
					return w.open(ctx, d, off, n)
				},
				Previous: func(string) *snapshot.Entry { return &prev },
			}, s.write)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, s.files[0]))
			require.LessOrEqual(t, fetched.Load(), c.most)
			if c.most > 6<<20 {
				require.Greater(t, fetched.Load(), int64(6<<20))
			}
		})
	}
}
