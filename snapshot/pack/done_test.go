package pack

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// Done is called once for each file that has content, after all of it was written.
func TestExtractTellsWhenAFileIsWhole(t *testing.T) {
	w := newWorld(t)
	big := noise(6<<20, 1)
	changes := []snapshot.Change{
		w.file("a", text(5000, 1)),
		w.file("big", big),
		w.file("empty", nil),
		w.file("same", text(5000, 1)),
		w.file("zeros", make([]byte, 5000)),
	}
	o := w.options()
	var seen atomic.Int64
	o.Seen = &seen
	ix, stats, err := Encode(t.Context(), o, changes)
	require.NoError(t, err)
	require.Equal(t, stats.Plain, seen.Load())
	var mu sync.Mutex
	written, done := map[int]int64{}, map[int]int64{}
	err = Extract(t.Context(), ix, ExtractOptions{
		Key: testKey, Open: w.open,
		Done: func(i int) error {
			mu.Lock()
			defer mu.Unlock()
			require.NotContains(t, done, i, "told twice")
			done[i] = written[i]
			return nil
		},
	}, func(i int, _ int64, p []byte) error {
		mu.Lock()
		defer mu.Unlock()
		written[i] += int64(len(p))
		return nil
	})
	require.NoError(t, err)
	want := map[int]int64{0: 5000, 1: int64(len(big)), 3: 5000}
	if len(ix.Changes[4].Entry.Chunks) > 0 {
		want[4] = written[4]
	}
	require.Equal(t, want, done)
}
