package pack

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// What is left of a chunk that was overwritten in part is neither stored again nor
// fetched by who has the base.
func TestParts(t *testing.T) {
	const size = 16 << 20
	w := newWorld(t)
	l := newLine(w)
	l.stays = true
	content := noise(size, 1)
	l.next(content)
	base := *l.prev
	after := overwrite(0.02)(content)
	ix, stats := l.next(after)
	const changed = size / 50
	require.Less(t, stats.New, int64(changed*13/10))
	checkChunks(t, after, l.prev.Chunks)

	extract := func(previous func(string) *snapshot.Entry) (fetched int64) {
		var n atomic.Int64
		s := newSink(ix)
		err := Extract(t.Context(), ix, ExtractOptions{
			Key: testKey, Previous: previous,
			Open: func(ctx context.Context, pack snapshot.Digest, off, size int64) (io.ReadCloser, error) {
				n.Add(size)
				return w.open(ctx, pack, off, size)
			},
		}, s.write)
		require.NoError(t, err)
		require.True(t, bytes.Equal(after, s.files[0]))
		return n.Load()
	}
	require.Greater(t, extract(nil), int64(size*9/10))
	near := extract(func(string) *snapshot.Entry { return &base })
	require.LessOrEqual(t, near, stats.Stored)

	// A base that is not what its chunks say is found out, here and there.
	lie := base
	lie.Source = w.file("f", noise(size, 2)).Entry.Source
	require.Greater(t, extract(func(string) *snapshot.Entry { return &lie }), int64(size*9/10))
	o := l.options()
	o.Known = newLine(w).options().Known
	o.Previous = func(string) *snapshot.Entry { return &lie }
	ch := []snapshot.Change{w.file("f", after)}
	_, _, err := Encode(t.Context(), o, ch)
	require.NoError(t, err)
	checkChunks(t, after, ch[0].Entry.Chunks)
	for _, c := range ch[0].Entry.Chunks {
		require.LessOrEqual(t, c.Len, int64(lookAhead))
	}
}
