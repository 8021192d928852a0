package tree

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// TestMemoryOfAtomic: a build directory of which all was made anew is not in memory, though
// it is taken from one parent or none.
func TestMemoryOfAtomic(t *testing.T) {
	const entries = 60_000
	base, parents := built(1, entries), []Parent{{"a", built(1, entries)}, {"b", built(2, entries)}}
	n := &lastNotes{most: heap(t)}
	start := n.most
	m, err := Merge(base, parents, MergeOptions{Notes: n})
	require.NoError(t, err)
	require.Equal(t, []int{entries, 0}, m.Changed)
	require.Less(t, (n.most-start)/entries, int64(300), "bytes for each entry; held whole it is 800")
}

// built is a build directory of n files, as version ver of the compiler makes it.
func built(ver byte, n int) Tree {
	dir := func(p string) *snapshot.Entry { return &snapshot.Entry{Path: p, Type: snapshot.TypeDir, Mode: 0o755} }
	return func(fn func(e *snapshot.Entry) error) error {
		head := []*snapshot.Entry{dir(""), dir("out"), {Path: "out/CMakeCache.txt", Type: snapshot.TypeFile, Mode: 0o644}}
		for _, e := range head {
			if err := fn(e); err != nil {
				return err
			}
		}
		for i := range n {
			d := fmt.Sprintf("out/d%06d", i/100)
			if i%100 == 0 {
				if err := fn(dir(d)); err != nil {
					return err
				}
			}
			e := snapshot.Entry{Path: fmt.Sprintf("%s/f%02d.o", d, i%100), Type: snapshot.TypeFile, Mode: 0o644}
			setText(&e, fmt.Sprint(ver, i))
			if err := fn(&e); err != nil {
				return err
			}
		}
		return nil
	}
}

// lastNotes looks at the memory now and then, and keeps the changes of b against a alone.
type lastNotes struct {
	n    int
	most int64
}

func (l *lastNotes) Append(*snapshot.Entry, []byte) error {
	if l.n++; l.n%10_000 == 0 {
		l.most = max(l.most, heap(nil))
	}
	return nil
}

// Each tells of files alone: all that is noted is in b, and otherwise in a.
func (l *lastNotes) Each(fn func(e *snapshot.Entry, note []byte) error) error {
	for range l.n {
		if err := fn(&snapshot.Entry{Path: "f", Type: snapshot.TypeFile}, []byte{0, 1}); err != nil {
			return err
		}
	}
	return nil
}

// heap is what is in use.
func heap(t *testing.T) int64 {
	if t != nil {
		percent := debug.SetGCPercent(20)
		t.Cleanup(func() { debug.SetGCPercent(percent) })
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}
