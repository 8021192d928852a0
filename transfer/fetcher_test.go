package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
	"github.com/roost-ci/roost/transfer/transfertest"
)

func openDir(t testing.TB) *blob.Dir {
	t.Helper()
	s, err := blob.OpenDir(t.TempDir(), blob.DirOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func client(t testing.TB, base string) *blob.HTTP {
	h := blob.NewHTTP(base, nil, nil)
	t.Cleanup(h.CloseIdle)
	return h
}

func fetch(ctx context.Context, f *transfer.Fetcher, d snapshot.Digest, off, n int64) ([]byte, error) {
	r, err := f.Open(ctx, d, off, n)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = io.Copy(struct{ io.Writer }{&b}, r) // 32 KiB at a time
	return b.Bytes(), errors.Join(err, r.Close())
}

// Whatever breaks once, the range arrives right, and the counter has every byte that
// came, also those before a break.
func TestFetchGoesOn(t *testing.T) {
	const size = 300_000
	s := openDir(t)
	srv := transfertest.NewServer(t, s)
	b, _ := blobtest.Random(1, size)
	d := blobtest.Put(t, s, b)
	cut := transfertest.CutAfter
	for _, c := range []struct {
		name   string
		off, n int64
		script []transfertest.Act
		gets   []string // ranges asked for
	}{
		{"well", 100, 200_000, nil, []string{"bytes=100-200099"}},
		{"all", 0, size, nil, []string{"bytes=0-299999"}},
		{"all, size not known", 0, -1, nil, []string{"bytes=0-299999"}},
		{"the rest", 7, -1, nil, []string{"bytes=7-299999"}},
		{"nothing", 7, 0, nil, nil},
		{"cut at 0", 10, 100_000, []transfertest.Act{cut(0)}, []string{"bytes=10-100009", "bytes=10-100009"}},
		{"cut at 1", 10, 100_000, []transfertest.Act{cut(1)}, []string{"bytes=10-100009", "bytes=11-100009"}},
		{"cut at 60000", 10, 100_000, []transfertest.Act{cut(60_000)}, []string{"bytes=10-100009", "bytes=60010-100009"}},
		{"cut at the last byte", 10, 100_000, []transfertest.Act{cut(99_999)}, []string{"bytes=10-100009", "bytes=100009-100009"}},
		{
			"cut thrice", 0, size,
			[]transfertest.Act{cut(100_000), cut(100_000), cut(50_000)},
			[]string{"bytes=0-299999", "bytes=100000-299999", "bytes=200000-299999", "bytes=250000-299999"},
		},
		{"500", 0, 9, []transfertest.Act{transfertest.Status(500, 0)}, []string{"bytes=0-8", "bytes=0-8"}},
		{"503", 0, 9, []transfertest.Act{transfertest.Status(503, 0), cut(3)}, []string{"bytes=0-8", "bytes=0-8", "bytes=3-8"}},
		{"507", 0, 9, []transfertest.Act{transfertest.Status(507, 0)}, []string{"bytes=0-8", "bytes=0-8"}},
		{"hangs before", 0, 90, []transfertest.Act{transfertest.Hang()}, []string{"bytes=0-89", "bytes=0-89"}},
		{"hangs within", 0, 90, []transfertest.Act{transfertest.HangAfter(40)}, []string{"bytes=0-89", "bytes=40-89"}},
		{"range ignored", 5, 90, []transfertest.Act{transfertest.IgnoreRange()}, []string{"bytes=5-94", "bytes=5-94"}},
		{"another range", 5, 90, []transfertest.Act{transfertest.ShiftRange(9)}, []string{"bytes=5-94", "bytes=5-94"}},
		{"truncated", 5, 90, []transfertest.Act{transfertest.Truncated(50)}, []string{"bytes=5-94", "bytes=5-94"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := transfer.NewFetcher(transfer.FetcherOptions{
				Blobs: client(t, srv.Blobs()), Stall: 20 * time.Second, Attempt: 300 * time.Millisecond,
			})
			before := len(srv.Requests())
			srv.Script(c.script...)
			if c.n < 0 {
				srv.Script(nil)
			}
			var count, outer transfer.Counter
			ctx := transfer.WithCounter(transfer.WithCounter(t.Context(), &outer), &count)
			got, err := fetch(ctx, f, d, c.off, c.n)
			require.NoError(t, err)
			want := b[c.off:]
			if c.n >= 0 {
				want = want[:c.n]
			}
			require.True(t, bytes.Equal(want, got), "got %d bytes, want %d", len(got), len(want))
			require.EqualValues(t, len(want), count.Bytes())
			require.Equal(t, count.Bytes(), outer.Bytes())
			var gets []string
			for _, r := range srv.Requests()[before:] {
				if m, ok := bytes.CutPrefix([]byte(r), []byte("GET /v1/blobs/"+d.String()+" ")); ok {
					gets = append(gets, string(m))
				}
			}
			require.Equal(t, c.gets, gets)
		})
	}
}

func TestFetchRefusals(t *testing.T) {
	s := openDir(t)
	srv := transfertest.NewServer(t, s)
	b, _ := blobtest.Random(1, 1000)
	d := blobtest.Put(t, s, b)
	_, absent := blobtest.Random(2, 1000)
	f := transfer.NewFetcher(transfer.FetcherOptions{Blobs: client(t, srv.Blobs())})
	for _, n := range []int64{-1, 0, 10} {
		_, err := f.Open(t.Context(), absent, 0, n)
		require.ErrorIs(t, err, snapshot.ErrNotFound)
	}
	var c *snapshot.CorruptError
	for _, r := range []struct{ off, n int64 }{{0, 1001}, {1001, -1}, {1001, 0}, {999, 2}, {-1, 5}} {
		_, err := f.Open(t.Context(), d, r.off, r.n)
		require.ErrorAs(t, err, &c, "%+v", r)
	}
	srv.Script(transfertest.Status(403, 0))
	_, err := f.Open(t.Context(), d, 0, 10)
	var st *blob.StatusError
	require.ErrorAs(t, err, &st)
	require.Equal(t, 403, st.Status)

	// It vanishes while we read it.
	srv.Script(transfertest.CutAfter(500), transfertest.Status(404, 0))
	got, err := fetch(t.Context(), f, d, 0, 1000)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	require.Equal(t, b[:500], got)
}

// An error stays: a reader that failed does not come back with other bytes.
func TestFetchErrorStays(t *testing.T) {
	s := openDir(t)
	srv := transfertest.NewServer(t, s)
	b, _ := blobtest.Random(1, 1000)
	d := blobtest.Put(t, s, b)
	f := transfer.NewFetcher(transfer.FetcherOptions{Blobs: client(t, srv.Blobs())})
	srv.Script(transfertest.CutAfter(500), transfertest.Status(404, 0))
	r, err := f.Open(t.Context(), d, 0, 1000)
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	n, err := r.Read(make([]byte, 10))
	require.Zero(t, n)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	require.NoError(t, r.Close())
	_, err = r.Read(make([]byte, 10))
	require.Error(t, err)
}

func TestFetchEndsWithItsContext(t *testing.T) {
	s := openDir(t)
	srv := transfertest.NewServer(t, s)
	b, _ := blobtest.Random(1, 100_000)
	d := blobtest.Put(t, s, b)
	f := transfer.NewFetcher(transfer.FetcherOptions{Blobs: client(t, srv.Blobs())})
	why := errors.New("the job was canceled")

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := f.Open(ctx, d, 0, -1)
	require.ErrorIs(t, err, why)

	ctx, cancel = context.WithCancelCause(t.Context())
	srv.Script(transfertest.HangAfter(50_000))
	r, err := f.Open(ctx, d, 0, 100_000)
	require.NoError(t, err)
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	got, err := io.ReadAll(r)
	require.ErrorIs(t, err, why)
	require.Equal(t, b[:len(got)], got)
	require.NoError(t, r.Close())
}

// stub is a Store whose Get is a function.
type stub struct {
	get func(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

func (s stub) Put(context.Context, snapshot.Digest, int64, func() (io.ReadCloser, error)) error {
	return errors.ErrUnsupported
}

func (s stub) Stat(context.Context, snapshot.Digest) (int64, error) { return 0, errors.ErrUnsupported }

func (s stub) Get(ctx context.Context, _ snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	return s.get(ctx, off, n)
}

// drip gives size bytes every interval, until ctx ends.
type drip struct {
	ctx   context.Context
	every time.Duration
	size  int
}

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(d.every):
		return min(d.size, len(p)), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (d drip) Close() error { return nil }

// How long a fetch lasts before it gives up, in virtual time.
func TestFetchStalls(t *testing.T) {
	down := func(context.Context, int64, int64) (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF }
	dripping := func(every time.Duration, size int) func(context.Context, int64, int64) (io.ReadCloser, error) {
		return func(ctx context.Context, _, _ int64) (io.ReadCloser, error) { return drip{ctx, every, size}, nil }
	}
	for _, c := range []struct {
		name     string
		get      func(context.Context, int64, int64) (io.ReadCloser, error)
		ok       bool
		from, to time.Duration
	}{
		{"server down", down, false, 30 * time.Second, time.Minute},
		{"black hole", func(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, false, 30 * time.Second, time.Minute},
		{"hangs in the body", dripping(time.Hour, 1), false, 30 * time.Second, time.Minute},
		{"a byte each 10 s", dripping(10*time.Second, 1), false, 30 * time.Second, time.Minute},
		{"slow but steady", dripping(10*time.Second, 16<<10), true, 600 * time.Second, 700 * time.Second},
		{"slow in small pieces", dripping(time.Second, 1<<10), true, 1000 * time.Second, 1100 * time.Second},
		{"asks for an hour", func(context.Context, int64, int64) (io.ReadCloser, error) {
			return nil, &blob.StatusError{Status: 503, RetryAfter: time.Hour}
		}, false, 0, time.Second},
		{"asks for 20 s", func() func(context.Context, int64, int64) (io.ReadCloser, error) {
			n := 0
			return func(context.Context, int64, int64) (io.ReadCloser, error) {
				if n++; n == 1 {
					return nil, &blob.StatusError{Status: http.StatusTooManyRequests, RetryAfter: 20 * time.Second}
				}
				return io.NopCloser(bytes.NewReader(make([]byte, 1<<20))), nil
			}
		}(), true, 20 * time.Second, 25 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := transfer.NewFetcher(transfer.FetcherOptions{Blobs: stub{c.get}})
				start := time.Now()
				_, err := fetch(t.Context(), f, snapshot.Digest{1}, 0, 1<<20)
				if c.ok {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, transfer.ErrStalled)
				}
				took := time.Since(start)
				require.GreaterOrEqual(t, took, c.from)
				require.LessOrEqual(t, took, c.to)
			})
		})
	}
}

// The time that the reader's owner takes between reads is not the peer's.
func TestFetchDoesNotBlameThePeerForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := transfer.NewFetcher(transfer.FetcherOptions{
			Blobs: stub{func(context.Context, int64, int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(make([]byte, 100))), nil
			}},
		})
		r, err := f.Open(t.Context(), snapshot.Digest{1}, 0, 100)
		require.NoError(t, err)
		for range 100 {
			time.Sleep(time.Hour)
			_, err := r.Read(make([]byte, 1))
			require.NoError(t, err)
		}
		_, err = r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, r.Close())
	})
}

// A server that cuts each connection after a byte is not asked in a tight loop.
func TestFetchBacksOffFromAServerThatCutsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		f := transfer.NewFetcher(transfer.FetcherOptions{
			Blobs: stub{func(context.Context, int64, int64) (io.ReadCloser, error) {
				asked++
				return io.NopCloser(bytes.NewReader(make([]byte, 1))), nil
			}},
		})
		_, err := fetch(t.Context(), f, snapshot.Digest{1}, 0, 1000)
		require.ErrorIs(t, err, transfer.ErrStalled)
		require.Less(t, asked, 20)
		require.Greater(t, asked, 5)
	})
}
