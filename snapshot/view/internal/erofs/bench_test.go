package erofs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// synthetic is a tree of n files with a mean of 5 KB, 49 in a directory, that
// exists only while it is walked.
func synthetic(n int, mtime int64) Tree {
	return func(visit func(*snapshot.Entry, Content) error) error {
		e := with("", snapshot.TypeDir, nil)
		if err := visit(&e, Content{}); err != nil {
			return err
		}
		at, dir := int64(0), ""
		extents := make([]Extent, 1)
		for i := range n {
			if i%49 == 0 {
				if i%4900 == 0 {
					e = with(fmt.Sprintf("package-%04d", i/4900), snapshot.TypeDir, nil)
					if err := visit(&e, Content{}); err != nil {
						return err
					}
				}
				dir = fmt.Sprintf("package-%04d/directory-%06d/", i/4900, i/49)
				e = with(dir[:len(dir)-1], snapshot.TypeDir, nil)
				if err := visit(&e, Content{}); err != nil {
					return err
				}
			}
			e = with(dir+"file-"+strconv.Itoa(1_000_000+i)+".go", snapshot.TypeFile, nil)
			e.Size, e.MTime = int64(200+i%97*100), mtime
			extents[0] = Extent{Len: e.Size, At: at}
			at += roundUp(e.Size, 512)
			if err := visit(&e, Content{Extents: extents}); err != nil {
				return err
			}
		}
		return nil
	}
}

// BenchmarkWrite makes the whole image, from a tree that is there or from one that
// is made twice in that time (BenchmarkTree says what that costs).
func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		for _, stream := range []bool{false, true} {
			for _, base := range []bool{false, true} {
				if n < 1_000_000 || stream { // else it would be the manifest's memory that is seen
					name := fmt.Sprintf("entries=%d/stream=%t/base=%t", n, stream, base)
					b.Run(name, func(b *testing.B) { benchmarkWrite(b, n, stream, base) })
				}
			}
		}
	}
}

func benchmarkWrite(b *testing.B, n int, stream, base bool) {
	o := Options{Devices: []string{"bundle"}}
	dir := b.TempDir()
	if base {
		f, _ := create(b, filepath.Join(dir, "base"), o, synthetic(n, 1))
		defer f.Close()
		o.Base = f
	}
	tree := synthetic(n, 2)
	if !stream {
		tree = slice(b, tree)
	}
	b.ReportAllocs()
	var info Info
	for b.Loop() {
		f, i := create(b, filepath.Join(dir, "image"), o, tree)
		f.Close()
		info = i
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(info.Inodes), "ns/entry")
	b.ReportMetric(float64(info.Bytes)/1e6, "MB-image")
	b.ReportMetric(float64(peakRSS())/1e6, "MB-peak-RSS")
}

// slice keeps what tree says.
func slice(b *testing.B, tree Tree) Tree {
	m := &snapshot.Manifest{}
	var places []Content
	require.NoError(b, tree(func(e *snapshot.Entry, c Content) error {
		m.Entries = append(m.Entries, *e)
		if e.Type == snapshot.TypeFile {
			places = append(places, Content{Extents: slices.Clone(c.Extents)})
		}
		return nil
	}))
	i := 0
	return Entries(m, func(*snapshot.Entry) (Content, error) {
		i++
		return places[(i-1)%len(places)], nil
	})
}

// BenchmarkTree is what walking the synthetic tree twice takes of BenchmarkWrite.
func BenchmarkTree(b *testing.B) {
	t := synthetic(100_000, 1)
	for b.Loop() {
		for range 2 {
			t(func(*snapshot.Entry, Content) error { return nil }) //nolint:errcheck // it can't
		}
	}
}

func create(t testing.TB, path string, o Options, tree Tree) (*os.File, Info) {
	f, err := os.Create(path)
	require.NoError(t, err)
	info, err := Write(t.Context(), f, o, tree)
	require.NoError(t, err)
	return f, info
}

// peakRSS of this process so far, 0 where it is not known.
func peakRSS() int64 {
	if runtime.GOOS != "linux" {
		return 0
	}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	var kb int64
	for line := range lines(b) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}

func lines(b []byte) func(func(string) bool) { return strings.SplitSeq(string(b), "\n") }
