//go:build unix

package pack

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// benchTree is a directory with files of one kind, made anew, or the one that
// ROOST_BENCH_TREE names.
type benchTree struct {
	name string
	make func(b *testing.B, dir string)
}

var benchTrees = []benchTree{
	{"node", func(b *testing.B, dir string) { fillTree(b, dir, 30_000, 22, 1100) }},
	{"source", func(b *testing.B, dir string) { fillTree(b, dir, 5000, 20, 6600) }},
	{"game", fillGame},
}

func newProse(seed uint64) *testenv.Prose {
	return testenv.NewProse(rand.New(rand.NewPCG(seed, 20)))
}

// fillTree makes n files of prose, per to a directory, about median bytes each.
func fillTree(b *testing.B, dir string, n, per, median int) {
	p := newProse(uint64(n))
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("part-%03d/unit-%04d", i/per/25, i/per))
		require.NoError(b, os.MkdirAll(d, 0o755))
		text := p.Text(p.Size(median, 1<<20))
		require.NoError(b, os.WriteFile(filepath.Join(d, fmt.Sprintf("source_%05d.js", i)), text, 0o644))
	}
}

// fillGame makes eight files of 32 MiB, half of each incompressible.
func fillGame(b *testing.B, dir string) {
	p := newProse(3)
	for i := range 8 {
		content := make([]byte, 0, 32<<20)
		for j := range 32 {
			content = append(append(content, p.Text(512<<10)...), noise(512<<10, uint64(i*32+j))...)
		}
		require.NoError(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("asset-%d.bin", i)), content, 0o644))
	}
}

// eachTree runs f on the files of each tree.
func eachTree(b *testing.B, f func(b *testing.B, files []snapshot.Change)) {
	trees := benchTrees
	if dir := os.Getenv("ROOST_BENCH_TREE"); dir != "" {
		trees = []benchTree{{filepath.Base(dir), nil}}
	}
	for _, t := range trees {
		b.Run(t.name, func(b *testing.B) {
			dir := os.Getenv("ROOST_BENCH_TREE")
			if t.make != nil {
				dir = b.TempDir()
				t.make(b, dir)
			}
			f(b, filesBelow(b, dir))
		})
	}
}

func filesBelow(b *testing.B, dir string) (list []snapshot.Change) {
	require.NoError(b, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		list = append(list, snapshot.Change{Entry: snapshot.Entry{
			Path: rel, Type: snapshot.TypeFile, Mode: 0o644, MTime: fi.ModTime().UnixNano(), Size: fi.Size(), Source: path,
		}})
		return err
	}))
	return list
}

// plainFrame is a frame before it is compressed. sizes are those of the small files in
// it, back to back; a frame of a large file has none, and is cut.
type plainFrame struct {
	plain []byte
	sizes []int
}

// framesOf reads all files into frames as Encode makes them.
func framesOf(b *testing.B, files []snapshot.Change) (frames []plainFrame) {
	var cur plainFrame
	flush := func() {
		if len(cur.plain) > 0 {
			frames, cur = append(frames, cur), plainFrame{}
		}
	}
	for i := range files {
		p, err := os.ReadFile(files[i].Entry.Source)
		require.NoError(b, err)
		if len(p) < largeBytes {
			if len(cur.plain)+len(p) > frameBytes {
				flush()
			}
			if len(p) > 0 {
				cur.plain, cur.sizes = append(cur.plain, p...), append(cur.sizes, len(p))
			}
			continue
		}
		flush()
		for part := range slices.Chunk(p, frameBytes) {
			frames = append(frames, plainFrame{plain: part})
		}
	}
	flush()
	return frames
}

// inMemory runs f for each of n things on all cores.
func inMemory(n int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	wg.Wait()
}

// cost is what something took.
type cost struct{ wall, cpu time.Duration }

func measure(f func()) cost {
	cpu := func() time.Duration {
		var u unix.Rusage
		if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	c, start := cpu(), time.Now()
	f()
	return cost{time.Since(start), cpu() - c}
}

func (c *cost) add(o cost) { c.wall += o.wall; c.cpu += o.cpu }

// BenchmarkSave encodes whole trees: files to packs that are synced. Beside each
// run the same encoder does what it does with the same bytes in memory, on all cores: cuts
// large files, computes the ids of the same chunks, compresses the same frames and
// computes their digests. of-encoder is how much of that speed Encode reaches, by the clock
// and by CPU time; of-codec is how much of that of compressing alone.
func BenchmarkSave(b *testing.B) {
	eachTree(b, func(b *testing.B, files []snapshot.Change) {
		frames := framesOf(b, files)
		w := newWorld(b)
		var enc, codec, all cost
		b.SetBytes(plainBytes(files))
		for b.Loop() {
			for i := range files {
				files[i].Entry.Chunks = nil
			}
			enc.add(measure(func() {
				if _, _, err := Encode(b.Context(), w.options(), files); err != nil {
					b.Fatal(err)
				}
			}))
			b.StopTimer()
			bufs := make([][]byte, len(frames))
			codec.add(measure(func() {
				inMemory(len(frames), func(i int) { bufs[i], _ = encodeFrame(make([]byte, 0, frameBytes), frames[i].plain) })
			}))
			all.add(measure(func() {
				inMemory(len(frames), func(i int) {
					identifyFrame(&frames[i])
					bufs[i], _ = encodeFrame(make([]byte, 0, frameBytes), frames[i].plain)
					sha256.Sum256(bufs[i])
				})
			}))
			b.StartTimer()
		}
		report(b, enc, codec, all, files)
	})
}

// identifyFrame computes the ids of a frame's chunks, and cuts them where it is a large
// file's.
func identifyFrame(f *plainFrame) {
	k, p := newKeyed(testKey), f.plain
	for _, n := range f.sizes {
		cutSmall(p[:n], func(start, end int) { k.id(p[start:end]) })
		p = p[n:]
	}
	for at := 0; at < len(p); at += cellBytes {
		isZero(p[at:min(at+cellBytes, len(p))])
	}
	for len(p) > 0 {
		n := nextCut(p)
		k.id(p[:n])
		p = p[n:]
	}
}

func report(b *testing.B, enc, codec, all cost, files []snapshot.Change) {
	b.ReportMetric(float64(all.wall)/float64(enc.wall), "of-encoder")
	b.ReportMetric(float64(all.cpu)/float64(enc.cpu), "of-encoder-cpu")
	b.ReportMetric(float64(codec.wall)/float64(enc.wall), "of-codec")
	b.ReportMetric(float64(codec.cpu)/float64(enc.cpu), "of-codec-cpu")
	b.ReportMetric(enc.cpu.Seconds()/float64(b.N)/float64(len(files))*1e6, "cpu-us/file")
}

// BenchmarkRestore extracts whole trees to a writer that costs nothing. Beside each
// run the same frames are only decompressed, in memory, on all cores.
func BenchmarkRestore(b *testing.B) {
	eachTree(b, func(b *testing.B, files []snapshot.Change) {
		w := newWorld(b)
		ix, _, err := Encode(b.Context(), w.options(), files)
		require.NoError(b, err)
		stored := make([][]byte, len(ix.Frames))
		for i, f := range ix.Frames {
			p, err := os.ReadFile(filepath.Join(w.dir, "packs", ix.Packs[f.Pack].Digest.String()))
			require.NoError(b, err)
			stored[i] = append([]byte(nil), p[f.Off:][:f.Stored]...)
		}
		chunks := make([][]ChunkRef, len(ix.Frames))
		for _, c := range ix.Chunks {
			chunks[c.Frame] = append(chunks[c.Frame], c)
		}
		var dec, codec, all cost
		o := ExtractOptions{Key: testKey, Open: w.open}
		b.SetBytes(plainBytes(files))
		for b.Loop() {
			dec.add(measure(func() {
				if err := Extract(b.Context(), ix, o, func(int, int64, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}))
			b.StopTimer()
			decode := func(ids bool) {
				inMemory(len(stored), func(i int) {
					f, p, k := &ix.Frames[i], stored[i], newKeyed(testKey)
					if f.Codec == CodecZstd {
						var err error
						if p, err = decompress(make([]byte, 0, f.Plain), p); err != nil {
							b.Error(err)
						}
					}
					if ids {
						for _, c := range chunks[i] {
							k.id(p[c.Off:][:c.Len])
						}
					}
				})
			}
			codec.add(measure(func() { decode(false) }))
			all.add(measure(func() { decode(true) }))
			b.StartTimer()
		}
		report(b, dec, codec, all, files)
	})
}
