package blob_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
	"github.com/roost-ci/roost/transfer/transfertest"
)

func client(t testing.TB, base string, token func() string) *blob.HTTP {
	h := blob.NewHTTP(base, token, nil)
	t.Cleanup(h.CloseIdle)
	return h
}

func TestHTTP(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		srv := transfertest.NewServer(t, openDir(t, t.TempDir(), blob.DirOptions{}))
		return client(t, srv.Blobs()+"/", nil)
	})
}

// A client that has no time for 100-continue sends the body without being asked.
func TestHTTPWithoutContinue(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := transfertest.NewServer(t, s)
	h := blob.NewHTTP(srv.Blobs(), nil, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}})
	for i := range 10 {
		b, d := blobtest.Random(uint64(i), 100_000*i)
		require.NoError(t, h.Put(t.Context(), d, int64(len(b)), blobtest.Bytes(b)))
		got, err := blobtest.Get(t.Context(), s, d, 0, -1)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, got))
	}
}

func TestHTTPGetFindsLies(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := transfertest.NewServer(t, s)
	h := client(t, srv.Blobs(), nil)
	b, _ := blobtest.Random(1, 100_000)
	d := blobtest.Put(t, s, b)
	_, other := blobtest.Random(2, 1)
	for _, c := range []struct {
		name   string
		act    transfertest.Act
		off, n int64
		open   bool // the lie shows only while reading
	}{
		{"range ignored", transfertest.IgnoreRange(), 10, 20, false},
		{"another range", transfertest.ShiftRange(5), 10, 20, false},
		{"a shorter range", transfertest.ShortRange(1), 10, 20, false},
		{"a range that says it is right but is short", transfertest.Truncated(10), 10, 20, false},
		{"content range of another length", transfertest.Header("Content-Range", "bytes 10-28/100000"), 10, 20, false},
		{"content range of more", transfertest.Header("Content-Range", "bytes 10-30/100000"), 10, 20, false},
		{"content range without sense", transfertest.Header("Content-Range", "bytes 30-10/5"), 10, 20, false},
		{"content range in words", transfertest.Header("Content-Range", "all of it"), 10, 20, false},
		{"no content range", transfertest.Header("Content-Range", ""), 10, 20, false},
		{"a smaller blob", transfertest.Header("Content-Range", "bytes 10-29/29"), 10, 20, false},
		{"whole blob, truncated", transfertest.Truncated(50_000), 0, 100_000, false},
		{"another blob", transfertest.Header("ETag", `"`+other.String()+`"`), 10, 20, false},
		{"encoded", transfertest.Header("Content-Encoding", "gzip"), 10, 20, false},
		{"cut", transfertest.CutAfter(5), 10, 20, true},
		{"cut before the last byte", transfertest.CutAfter(99_999), 0, -1, true},
		{"cut at once", transfertest.CutAfter(0), 0, 100, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv.Script(c.act)
			r, err := h.Get(t.Context(), d, c.off, c.n)
			if c.open && err == nil {
				_, err = io.ReadAll(r)
				require.NoError(t, r.Close())
			}
			require.Error(t, err)
			got, err := blobtest.Get(t.Context(), h, d, 10, 20)
			require.NoError(t, err)
			require.Equal(t, b[10:30], got)
		})
	}
}

// Whole blobs are allowed to answer a range from the start: that is no lie.
func TestHTTPTakesItsPartOfAWholeBlob(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := transfertest.NewServer(t, s)
	b, _ := blobtest.Random(1, 100_000)
	d := blobtest.Put(t, s, b)
	srv.Script(transfertest.IgnoreRange())
	got, err := blobtest.Get(t.Context(), client(t, srv.Blobs(), nil), d, 0, 20)
	require.NoError(t, err)
	require.Equal(t, b[:20], got)
}

func TestHTTPStatuses(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := transfertest.NewServer(t, s)
	h := client(t, srv.Blobs(), nil)
	b, d := blobtest.Random(1, 5000)
	put := func() error { return h.Put(t.Context(), d, 5000, blobtest.Bytes(b)) }

	var st *blob.StatusError
	srv.Script(transfertest.Status(503, 7))
	err := put()
	require.ErrorAs(t, err, &st)
	require.Equal(t, 7*time.Second, st.RetryAfter)
	require.Equal(t, "TEST", st.Code)
	require.True(t, st.Temporary())

	srv.Script(transfertest.Status(401, 0))
	require.ErrorAs(t, put(), &st)
	require.False(t, st.Temporary())

	srv.Script(transfertest.Status(507, 0))
	require.ErrorIs(t, put(), blob.ErrFull)

	srv.Script(transfertest.Status(422, 0))
	var c *snapshot.CorruptError
	require.ErrorAs(t, put(), &c)

	srv.Script(transfertest.Status(302, 0))
	require.ErrorAs(t, put(), &st)
	require.Equal(t, 302, st.Status)

	// A store that answers create-only with 412 has it only if it has all of it.
	srv.Script(transfertest.Status(412, 0))
	require.ErrorIs(t, put(), snapshot.ErrNotFound)
	blobtest.Put(t, s, b)
	srv.Script(transfertest.Status(412, 0))
	require.NoError(t, put())
	srv.Script(transfertest.Status(412, 0), transfertest.Header("Content-Length", "4999"))
	require.ErrorAs(t, put(), &c)

	// An error page may be endless or no JSON.
	srv.Script(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.WriteHeader(500)
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte("<html>"), 1000)); err != nil {
				return
			}
		}
	})
	_, err = h.Get(t.Context(), d, 0, -1)
	require.ErrorAs(t, err, &st)
	require.Equal(t, 500, st.Status)
	require.Less(t, len(err.Error()), 500)
}

// A login page answers 200 to everything. That confirms nothing.
func TestHTTPNeedsAConfirmation(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // whatever comes
		w.Write(make([]byte, 10))   //nolint:errcheck // a test's server
	}))
	defer srv.Close()
	h := client(t, srv.URL, nil)
	b, d := blobtest.Random(1, 10)
	require.ErrorContains(t, h.Put(t.Context(), d, 10, blobtest.Bytes(b)), "without confirming")
	_, err := h.Stat(t.Context(), d)
	require.ErrorContains(t, err, "without confirming")
}

func TestHTTPLostReply(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := transfertest.NewServer(t, s)
	h := client(t, srv.Blobs(), nil)
	b, d := blobtest.Random(1, 500_000)
	srv.Script(transfertest.LoseReply())
	require.Error(t, h.Put(t.Context(), d, 500_000, blobtest.Bytes(b)))
	_, err := s.Stat(t.Context(), d)
	require.NoError(t, err)
	require.NoError(t, h.Put(t.Context(), d, 500_000, blobtest.Bytes(b)))

	_, d2 := blobtest.Random(2, 500_000)
	srv.Script(transfertest.CutUpload(1000))
	require.Error(t, h.Put(t.Context(), d2, 500_000, blobtest.Bytes(b)))
}

// The token goes where it should and nowhere else, and an error does not tell it.
func TestHTTPToken(t *testing.T) {
	const secret = "s3cr3t-t0ken"
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var seen atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	b, d := blobtest.Random(1, 10)
	h := client(t, srv.URL, func() string { return secret })
	for _, err := range []error{
		h.Put(t.Context(), d, 10, blobtest.Bytes(b)),
		func() error { _, err := h.Get(t.Context(), d, 0, -1); return err }(),
		func() error { _, err := h.Stat(t.Context(), d); return err }(),
		client(t, "http://127.0.0.1:1", func() string { return secret }).Put(t.Context(), d, 10, blobtest.Bytes(b)),
		client(t, srv.URL, func() string { return secret + "\n" }).Put(t.Context(), d, 10, blobtest.Bytes(b)),
	} {
		require.Error(t, err)
		require.NotContains(t, err.Error(), secret)
	}
	require.Equal(t, "Bearer "+secret, seen.Load())
	require.Zero(t, elsewhere.Load())
}

func TestHTTPEndsWithItsContext(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := transfertest.NewServer(t, s)
	srv.Always(func(*http.Request) transfertest.Act { return transfertest.Hang() })
	h := client(t, srv.Blobs(), nil)
	b, d := blobtest.Random(1, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.Put(ctx, d, 10, blobtest.Bytes(b)), context.DeadlineExceeded)
	_, err := h.Get(ctx, d, 0, -1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = h.Stat(ctx, d)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// After Put returned nobody reads the source any more: its owner may delete it. The
// server here answers while the body is still on its way.
func TestHTTPPutLeavesTheSourceAlone(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := transfertest.NewServer(t, s)
	tr := &http.Transport{} // no time for 100-continue
	defer tr.CloseIdleConnections()
	h := blob.NewHTTP(srv.Blobs(), nil, &http.Client{Transport: tr})
	_, d := blobtest.Random(1, 10)
	for range 20 {
		src := &watched{t: t, r: strings.NewReader(strings.Repeat("x", 64<<20))}
		srv.Script(transfertest.Status(503, 0))
		err := h.Put(t.Context(), d, 64<<20, func() (io.ReadCloser, error) { return src, nil })
		src.returned.Store(true)
		require.Error(t, err)
		time.Sleep(10 * time.Millisecond)
	}
}

type watched struct {
	t        *testing.T
	r        io.Reader
	returned atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	if w.returned.Load() {
		w.t.Error("read after Put returned")
	}
	time.Sleep(time.Millisecond)
	return w.r.Read(p[:min(len(p), 1000)])
}

func (w *watched) Close() error { return nil }
