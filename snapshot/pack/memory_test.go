package pack

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// peak runs fn and returns by how much the heap grew at most.
func peak(fn func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(5)) // what is garbage does not count
	runtime.GC()
	runtime.GC() // the second empties pools
	start := heap()
	done, most := make(chan struct{}), make(chan uint64)
	go func() {
		var m uint64
		for {
			m = max(m, heap())
			select {
			case <-done:
				most <- m
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	fn()
	close(done)
	return max(<-most, start) - start
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Memory is bounded by what Encode promises, however large the files are and
// whatever became of them.
func TestDeltaMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	w := newWorld(t)
	l := newLine(w)
	content := noise(96<<20, 1)
	const workers = 2
	most := uint64(workers * 24 << 20)
	l.next(content)
	for _, c := range edits {
		ch := w.file("f", c.edit(content))
		o := l.options()
		o.Workers = workers
		used := peak(func() {
			_, _, err := Encode(t.Context(), o, append(many(w, 100, 9000, text), ch))
			require.NoError(t, err)
		})
		t.Logf("%s: %d KiB", c.name, used>>10)
		require.Less(t, used, most, c.name)
	}
}
