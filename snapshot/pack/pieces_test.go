package pack

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// Pieces gets what write would, and Done comes behind it.
func TestExtractPieces(t *testing.T) {
	w := newWorld(t)
	var changes []snapshot.Change
	for i := range 300 {
		changes = append(changes, w.file(fmt.Sprintf("%03d", i), text(100+i*7, uint64(i%200))))
	}
	changes = append(changes, w.file("big", noise(3<<20, 1)), w.file("zeros", make([]byte, 50_000)))
	ix, _, err := Encode(t.Context(), w.options(), changes)
	require.NoError(t, err)
	one, many := newSink(ix), newSink(ix)
	require.NoError(t, Extract(t.Context(), ix, ExtractOptions{Key: testKey, Open: w.open}, one.write))
	var mu sync.Mutex
	calls, done := 0, map[int]bool{}
	require.NoError(t, Extract(t.Context(), ix, ExtractOptions{
		Key: testKey, Open: w.open,
		Pieces: func(pieces ...snapshot.Piece) error {
			mu.Lock()
			defer mu.Unlock()
			calls++
			for _, p := range pieces {
				if done[p.Change] {
					t.Errorf("change %d was done", p.Change)
				}
				if err := many.write(p.Change, p.Off, p.Bytes); err != nil {
					return err
				}
			}
			return nil
		},
		Done: func(i int) error {
			mu.Lock()
			defer mu.Unlock()
			done[i] = true
			return nil
		},
	}, nil))
	require.Equal(t, one.files, many.files)
	require.NotEmpty(t, done)
	require.LessOrEqual(t, calls, len(ix.Frames))
}
