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

// framesOf reads all files into frames as Encode makes them.
func framesOf(b *testing.B, files []snapshot.Change) (frames [][]byte) {
	var cur []byte
	for i := range files {
		p, err := os.ReadFile(files[i].Entry.Source)
		require.NoError(b, err)
		for len(p) > 0 {
			n := min(len(p), frameBytes-len(cur))
			cur, p = append(cur, p[:n]...), p[n:]
			if len(cur) == frameBytes {
				frames, cur = append(frames, cur), nil
			}
		}
	}
	if len(cur) > 0 {
		frames = append(frames, cur)
	}
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
// run the same frames are only compressed, in memory, on all cores; of-memory is how
// much of that speed Encode reaches, by the clock and by CPU time. With digests, too: all
// that the encoder computes, in memory: with the ids and the packs' digests that the
// format asks for, and where there are large files with the cutting.
func BenchmarkSave(b *testing.B) {
	eachTree(b, func(b *testing.B, files []snapshot.Change) {
		frames := framesOf(b, files)
		w := newWorld(b)
		var enc, mem, bound cost
		large := slices.ContainsFunc(files, func(ch snapshot.Change) bool { return ch.Entry.Size >= largeBytes })
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
			mem.add(measure(func() {
				inMemory(len(frames), func(i int) { bufs[i], _ = encodeFrame(make([]byte, 0, frameBytes), frames[i]) })
			}))
			bound.add(measure(func() {
				inMemory(len(frames), func(i int) {
					bufs[i], _ = encodeFrame(make([]byte, 0, frameBytes), frames[i])
					if large {
						cut(frames[i])
					}
					digest(frames[i])
					sha256.Sum256(bufs[i])
				})
			}))
			b.StartTimer()
		}
		report(b, enc, mem, bound, files)
	})
}

// cut finds the chunks of a frame as those of a large file are found.
func cut(frame []byte) {
	for at := 0; at < len(frame); at += cellBytes {
		isZero(frame[at:min(at+cellBytes, len(frame))])
	}
	for len(frame) > 0 {
		frame = frame[nextCut(frame):]
	}
}

// digest computes what the ids of a frame's chunks cost.
func digest(frame []byte) {
	const size = 32 << 10
	k := newKeyed(testKey)
	n := (len(frame) + size - 1) / size
	k.ids(n, func(i int) []byte { return frame[i*size : min(len(frame), (i+1)*size)] }, func(int, snapshot.Digest) {})
}

func report(b *testing.B, enc, mem, bound cost, files []snapshot.Change) {
	b.ReportMetric(float64(mem.wall)/float64(enc.wall), "of-memory")
	b.ReportMetric(float64(bound.cpu)/float64(enc.cpu), "of-digests-too-cpu")
	b.ReportMetric(float64(mem.cpu)/float64(enc.cpu), "of-memory-cpu")
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
		var dec, mem, bound cost
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
					f, p := &ix.Frames[i], stored[i]
					if f.Codec == CodecZstd {
						var err error
						if p, err = decompress(make([]byte, 0, f.Plain), p); err != nil {
							b.Error(err)
						}
					}
					if ids {
						digest(p)
					}
				})
			}
			mem.add(measure(func() { decode(false) }))
			bound.add(measure(func() { decode(true) }))
			b.StartTimer()
		}
		report(b, dec, mem, bound, files)
	})
}
