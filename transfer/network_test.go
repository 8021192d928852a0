package transfer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
	"github.com/roost-ci/roost/transfer/transfertest"
)

var (
	transfers = flag.Int("transfers", 60, "how many transfers TestBadNetwork does each way")
	seed      = flag.Uint64("seed", 1, "of TestBadNetwork's faults")
)

// faults draws what becomes of connections: half of them go bad, at a byte that is as
// likely in the headers as anywhere in the body.
type faults struct{ r *rand.Rand }

func (f *faults) draw() transfertest.Fault {
	at := func() int64 { return int64(1) << f.r.IntN(21) * (16 + f.r.Int64N(16)) / 16 }
	out := transfertest.Fault{Up: 1 << 40, Down: 1 << 40}
	switch f.r.IntN(10) {
	case 0, 1:
		out.How = transfertest.Reset
	case 2, 3:
		out.How = transfertest.Finish
	case 4:
		out.How = transfertest.BlackHole
	case 5:
		out.Delay, out.Piece = time.Millisecond, 2000
		return out
	default:
		return out
	}
	if f.r.IntN(2) == 0 {
		out.Up = at()
	} else {
		out.Down = at()
	}
	return out
}

// P18: through a network that cuts, resets, swallows and dawdles at any byte, each
// transfer ends right or with a clean error, and none hangs. Uploads always end right.
func TestBadNetwork(t *testing.T) {
	f := &faults{rand.New(rand.NewPCG(*seed, 0))} //nolint:gosec // to be repeatable
	sizes := rand.New(rand.NewPCG(*seed, 1))      //nolint:gosec // to be repeatable
	dir := openDir(t)
	srv := transfertest.NewServer(t, dir)
	p := transfertest.NewProxy(t, srv.Listener.Addr().String(), f.draw)
	store := func() blob.Store { return blob.NewHTTP(p.URL("/v1/blobs"), nil, p.Client(t)) }

	src := source{}
	d := &told{t: t, store: dir, items: map[snapshot.ID]transfer.Item{}}
	u := transfer.NewUploader(transfer.UploaderOptions{
		Source: src, Blobs: store(), Durable: d.durable, Workers: 8, Stall: 500 * time.Millisecond, Backoff: 10 * time.Millisecond,
	})
	var all []transfer.Blob
	for i := range *transfers {
		id := snapshot.ID(fmt.Sprint(i))
		it := src.add(uint64(i), id, 1+sizes.IntN(1<<20), 1+sizes.IntN(1<<12))
		d.items[id] = it
		all = append(all, it.Blobs...)
		require.NoError(t, u.Enqueue(it))
	}
	stop := start(t, u)
	drain(t, u, time.Duration(*transfers)*2*time.Second)
	stop()
	require.Len(t, d.all(), *transfers)
	for _, b := range all {
		got, err := blobtest.Get(t.Context(), dir, b.Digest, 0, -1)
		require.NoError(t, err)
		require.True(t, bytes.Equal(src[b.Digest], got))
	}

	fetcher := transfer.NewFetcher(transfer.FetcherOptions{Blobs: store(), Stall: 5 * time.Second, Attempt: 500 * time.Millisecond})
	var wg sync.WaitGroup
	var mu sync.Mutex
	right := 0
	next := make(chan transfer.Blob)
	for range 8 {
		wg.Go(func() {
			for b := range next {
				var c transfer.Counter
				begin := time.Now()
				got, err := fetch(transfer.WithCounter(t.Context(), &c), fetcher, b.Digest, 0, b.Bytes)
				if took := time.Since(begin); took > 2*time.Minute {
					t.Errorf("%d bytes took %s", b.Bytes, took)
				}
				if err == nil && !bytes.Equal(src[b.Digest], got) || !bytes.HasPrefix(src[b.Digest], got) {
					t.Errorf("blob %s came wrong: %d bytes of %d", b.Digest, len(got), b.Bytes)
				}
				if c.Bytes() != int64(len(got)) {
					t.Errorf("counted %d bytes, got %d", c.Bytes(), len(got))
				}
				mu.Lock()
				if err == nil {
					right++
				}
				mu.Unlock()
			}
		})
	}
	for _, b := range all {
		next <- b
	}
	close(next)
	wg.Wait()
	t.Logf("%d of %d fetches came through", right, len(all))
	require.Greater(t, right, len(all)*9/10)
}

// One connection's throughput over loopback, a disk below it: what a pack costs.
func BenchmarkLoopback(b *testing.B) {
	const size = 8 << 20
	dir, err := blob.OpenDir(b.TempDir(), blob.DirOptions{})
	require.NoError(b, err)
	defer dir.Close() //nolint:errcheck // a benchmark
	srv := transfertest.NewServer(b, dir)
	h := blob.NewHTTP(srv.Blobs(), nil, nil)
	defer h.CloseIdle()
	data, d := blobtest.Random(1, size)
	blobtest.Put(b, dir, data)

	b.Run("put", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			b.StopTimer()
			data[0]++ // a new blob
			for i := 0; data[i] == 0; i++ {
				data[i+1]++
			}
			d := snapshot.Digest(sha256.Sum256(data))
			b.StartTimer()
			require.NoError(b, h.Put(b.Context(), d, size, blobtest.Bytes(data)))
		}
	})
	b.Run("get", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			drainBody(b, h, d, 0, size)
		}
	})
	b.Run("get 1 MiB ranges", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for b.Loop() {
			drainBody(b, h, d, 3<<20, 1<<20)
		}
	})
	b.Run("stat", func(b *testing.B) {
		for b.Loop() {
			_, err := h.Stat(b.Context(), d)
			require.NoError(b, err)
		}
	})
	b.Run("upload 20 of 8 MiB", func(b *testing.B) {
		b.SetBytes(20 * size)
		for n := uint64(0); b.Loop(); n++ {
			b.StopTimer()
			src, it := source{}, transfer.Item{ID: "a"}
			for i := range uint64(20) {
				data, d := blobtest.Random(1_000_000+n*100+i, size)
				src[d] = data
				it.Blobs = append(it.Blobs, transfer.Blob{Digest: d, Bytes: size})
			}
			b.StartTimer()
			upload(b, h, src, it)
		}
	})
}

func upload(b *testing.B, s blob.Store, src transfer.Source, it transfer.Item) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	u := transfer.NewUploader(transfer.UploaderOptions{
		Source: src, Blobs: s, Durable: func(context.Context, snapshot.ID) error { return nil },
	})
	require.NoError(b, u.Enqueue(it))
	done := make(chan error)
	go func() { done <- u.Run(ctx) }()
	require.NoError(b, u.Drain(ctx))
	cancel()
	require.NoError(b, <-done)
}

func drainBody(b *testing.B, s blob.Store, d snapshot.Digest, off, n int64) {
	r, err := s.Get(b.Context(), d, off, n)
	require.NoError(b, err)
	m, err := io.Copy(io.Discard, r)
	require.NoError(b, err)
	require.Equal(b, n, m)
	require.NoError(b, r.Close())
}
