package store

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b) //nolint:errcheck // never fails
	return b
}

// A layer of a large file that changed a little is little, and shows and travels
// as any other.
func TestDeltaOfLargeFile(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		const size = 8 << 20
		b := newBench(t, driver)
		content := noise(size, 1)
		base := b.job(func(dir string) { require.NoError(t, os.WriteFile(dir+"/big", content, 0o644)) })
		content = append(content[:size/2], append(noise(53, 2), content[size/2:]...)...)
		copy(content[1<<20:], noise(5000, 3))
		child := b.job(func(dir string) {
			require.NoError(t, os.WriteFile(dir+"/big", content, 0o644))
			require.NoError(t, os.Link(dir+"/big", dir+"/name"))
		}, base.ID)
		linked := b.job(func(dir string) { require.NoError(t, os.Link(dir+"/name", dir+"/third")) }, child.ID)
		in := b.packed(base.ID, child.ID, linked.ID)
		require.Less(t, in[1].StoredBytes, int64(500<<10))
		require.Less(t, in[2].StoredBytes, int64(50<<10))
		for i := range in {
			require.NoError(t, b.Verify(t.Context(), in[i].ID))
		}

		dst, r := newBench(t, driver), newRemote(t)
		for i, id := range []snapshot.ID{base.ID, child.ID, linked.ID} {
			var moved int64
			open := func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
				atomic.AddInt64(&moved, n)
				return r.open(ctx, d, off, n)
			}
			require.NoError(t, dst.Import(t.Context(), r.upload(b, id), open, nil))
			require.Less(t, moved, in[i].StoredBytes+100, "only what is new is fetched")
			require.NoError(t, dst.Verify(t.Context(), id))
		}
		dst.job(func(dir string) {
			for _, name := range []string{"big", "name", "third"} {
				got, err := os.ReadFile(dir + "/" + name)
				require.NoError(t, err)
				require.True(t, bytes.Equal(content, got))
			}
		}, linked.ID)
	})
}

// Two lines that made the same of a large file don't disagree, though it is cut
// differently; and a real difference is found.
func TestFaninOfFilesInOtherChunks(t *testing.T) {
	b := newBench(t, "copy")
	content := noise(3<<20, 1)
	put := func(c []byte) func(dir string) {
		return func(dir string) { require.NoError(t, os.WriteFile(dir+"/big", c, 0o644)) }
	}
	base := b.job(put(content))
	final := append(noise(7000, 3), noise(2<<20, 4)...)
	copy(final[1<<20:], content)
	on := b.job(put(final[:900_000]), base.ID) // small: one chunk, which stays
	left := b.job(put(final), on.ID)
	right := b.job(put(final), base.ID)
	last := bytes.Clone(final)
	last[len(last)-1] ^= 1
	other := b.job(put(last), base.ID)
	b.packed(base.ID, on.ID, left.ID, right.ID, other.ID)
	chunks := func(id snapshot.ID) []snapshot.Chunk {
		m, err := b.Tree(t.Context(), id)
		require.NoError(t, err)
		e, ok := m.Find("big")
		require.True(t, ok)
		return e.Chunks
	}
	require.NotEqual(t, len(chunks(left.ID)), len(chunks(right.ID)), "or this tests nothing")
	b.job(func(dir string) { require.Equal(t, string(final), read(t, dir+"/big")) }, left.ID, right.ID)
	_, err := b.Prepare(t.Context(), b.spec(left.ID, other.ID))
	var conflict *snapshot.ConflictError
	require.ErrorAs(t, err, &conflict)
}
