package blob_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

func serve(t testing.TB, s blob.Store, o blob.HandlerOptions) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(blob.Handler(s, o))
	t.Cleanup(srv.Close)
	return srv
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func call(t testing.TB, method, url string, body io.Reader, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(r)
	require.NoError(t, err)
	defer resp.Body.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, b}
}

func TestHandlerPut(t *testing.T) {
	srv := serve(t, openDir(t, t.TempDir(), blob.DirOptions{}), blob.HandlerOptions{MaxBytes: 1000})
	b, d := blobtest.Random(1, 1000)
	big, bigD := blobtest.Random(2, 1001)
	for _, c := range []struct {
		name   string
		path   string
		body   io.Reader
		status int
		code   string
	}{
		{"new", d.String(), bytes.NewReader(b), 201, ""},
		{"again", d.String(), bytes.NewReader(b), 200, ""},
		{"other bytes of that length: not even read", d.String(), bytes.NewReader(big[:1000]), 200, ""},
		{"wrong digest", bigD.String(), bytes.NewReader(b), 422, "DIGEST_MISMATCH"},
		{"too big", bigD.String(), bytes.NewReader(big), 413, "INVALID"},
		{"no length", bigD.String(), io.MultiReader(bytes.NewReader(b)), 411, "INVALID"},
		{"zero digest", strings.Repeat("0", 64), bytes.NewReader(b), 404, "NOT_FOUND"},
		{"upper case", strings.ToUpper(bigD.String()), bytes.NewReader(b), 404, "NOT_FOUND"},
		{"short", d.String()[:63], bytes.NewReader(b), 404, "NOT_FOUND"},
		{"long", d.String() + "0", bytes.NewReader(b), 404, "NOT_FOUND"},
		{"below", d.String() + "/x", bytes.NewReader(b), 404, "NOT_FOUND"},
		{"dots", "..%2f" + d.String(), bytes.NewReader(b), 404, "NOT_FOUND"},
		{"two slashes", "/" + d.String(), bytes.NewReader(b), 404, "NOT_FOUND"},
		{"escaped", "%" + "61" + strings.Repeat("a", 63), bytes.NewReader(b), 404, "NOT_FOUND"},
		{"nothing", "", bytes.NewReader(b), 404, "NOT_FOUND"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := call(t, "PUT", srv.URL+"/"+c.path, c.body)
			require.Equal(t, c.status, a.status, "%s", a.body)
			if c.code != "" {
				requireRefusal(t, a, c.code)
			}
		})
	}
	require.Equal(t, 404, call(t, "GET", srv.URL+"/"+bigD.String(), nil).status)
}

func requireRefusal(t *testing.T, a answer, code string) {
	t.Helper()
	var e struct{ Code, Error string }
	require.NoError(t, json.Unmarshal(a.body, &e), "%s", a.body)
	require.Equal(t, code, e.Code)
	require.NotEmpty(t, e.Error)
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	require.Empty(t, a.header.Get("ETag"))
}

func TestHandlerMethods(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := serve(t, s, blob.HandlerOptions{})
	b, _ := blobtest.Random(1, 10)
	d := blobtest.Put(t, s, b)
	for _, m := range []string{"POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECTX", "get"} {
		a := call(t, m, srv.URL+"/"+d.String(), nil)
		require.Equal(t, 405, a.status, m)
		require.Equal(t, "GET, HEAD, PUT", a.header.Get("Allow"))
	}
	got, err := blobtest.Get(t.Context(), s, d, 0, -1)
	require.NoError(t, err)
	require.Equal(t, b, got)
}

func TestHandlerGet(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := serve(t, s, blob.HandlerOptions{})
	b, _ := blobtest.Random(1, 100)
	d := blobtest.Put(t, s, b)
	tag := `"` + d.String() + `"`
	for _, c := range []struct {
		name    string
		header  []string
		status  int
		from, n int
		rng     string
	}{
		{"whole", nil, 200, 0, 100, ""},
		{"range", []string{"Range", "bytes=10-19"}, 206, 10, 10, "bytes 10-19/100"},
		{"one byte", []string{"Range", "bytes=0-0"}, 206, 0, 1, "bytes 0-0/100"},
		{"open end", []string{"Range", "bytes=90-"}, 206, 90, 10, "bytes 90-99/100"},
		{"beyond the end", []string{"Range", "bytes=90-1000"}, 206, 90, 10, "bytes 90-99/100"},
		{"suffix", []string{"Range", "bytes=-7"}, 206, 93, 7, "bytes 93-99/100"},
		{"long suffix", []string{"Range", "bytes=-700"}, 206, 0, 100, "bytes 0-99/100"},
		{"outside", []string{"Range", "bytes=100-"}, 416, 0, 0, "bytes */100"},
		{"empty suffix", []string{"Range", "bytes=-0"}, 416, 0, 0, "bytes */100"},
		{"several", []string{"Range", "bytes=0-1,5-6"}, 200, 0, 100, ""},
		{"backwards", []string{"Range", "bytes=9-3"}, 200, 0, 100, ""},
		{"signs", []string{"Range", "bytes=+1-+3"}, 200, 0, 100, ""},
		{"huge", []string{"Range", "bytes=99999999999999999999-"}, 200, 0, 100, ""},
		{"no unit", []string{"Range", "0-1"}, 200, 0, 100, ""},
		{"garbage", []string{"Range", "bytes="}, 200, 0, 100, ""},
		{"if-range holds", []string{"Range", "bytes=1-2", "If-Range", tag}, 206, 1, 2, "bytes 1-2/100"},
		{"if-range does not", []string{"Range", "bytes=1-2", "If-Range", `"x"`}, 200, 0, 100, ""},
		{"has it", []string{"If-None-Match", tag}, 304, 0, 0, ""},
		{"has it among others", []string{"If-None-Match", `"x", W/` + tag}, 304, 0, 0, ""},
		{"has any", []string{"If-None-Match", "*"}, 304, 0, 0, ""},
		{"has another", []string{"If-None-Match", `"x"`}, 200, 0, 100, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := call(t, "GET", srv.URL+"/"+d.String(), nil, c.header...)
			require.Equal(t, c.status, a.status)
			require.Equal(t, c.rng, a.header.Get("Content-Range"))
			if c.status >= 400 {
				requireRefusal(t, a, "INVALID")
				return
			}
			require.Equal(t, tag, a.header.Get("ETag"))
			require.True(t, bytes.Equal(b[c.from:c.from+c.n], a.body), "got %d bytes", len(a.body))
		})
	}
	a := call(t, "HEAD", srv.URL+"/"+d.String(), nil)
	require.Equal(t, 200, a.status)
	require.Equal(t, "100", a.header.Get("Content-Length"))
	require.Equal(t, tag, a.header.Get("ETag"))
	require.Empty(t, a.body)
}

// A blob that is there, or is refused, is answered before its body is sent.
func TestHandlerAnswersBeforeTheBody(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := serve(t, s, blob.HandlerOptions{MaxBytes: 1 << 30})
	b, _ := blobtest.Random(1, 100)
	d := blobtest.Put(t, s, b)
	_, absent := blobtest.Random(2, 100)
	for _, c := range []struct {
		name, head, want string
	}{
		{"there", "PUT /" + d.String() + " HTTP/1.1\r\nContent-Length: 100\r\n", "HTTP/1.1 200 "},
		{"too big", "PUT /" + absent.String() + " HTTP/1.1\r\nContent-Length: 1073741825\r\n", "HTTP/1.1 413 "},
		{"wanted", "PUT /" + absent.String() + " HTTP/1.1\r\nContent-Length: 100\r\n", "HTTP/1.1 100 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close() //nolint:errcheck // a test's connection
			_, err = io.WriteString(conn, c.head+"Host: x\r\nExpect: 100-continue\r\n\r\n")
			require.NoError(t, err)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
			got := make([]byte, len(c.want))
			_, err = io.ReadFull(conn, got)
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
		})
	}
}

// A client that stops in the middle of a PUT, or does not take what it asked for, is
// cut off and leaves nothing.
func TestHandlerCutsOffAClientThatStandsStill(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := serve(t, s, blob.HandlerOptions{Stall: 200 * time.Millisecond})
	b, d := blobtest.Random(1, 100)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // a test's connection
	_, err = io.WriteString(conn, "PUT /"+d.String()+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"+string(b[:50]))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(got), "HTTP/1.1 400 ")
	_, err = s.Stat(t.Context(), d)
	require.ErrorIs(t, err, snapshot.ErrNotFound)

	big, _ := blobtest.Random(2, 32<<20) // more than socket buffers take
	bigD := blobtest.Put(t, s, big)
	c2, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer c2.Close() //nolint:errcheck // a test's connection
	_, err = io.WriteString(c2, "GET /"+bigD.String()+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	time.Sleep(3 * time.Second)
	require.NoError(t, c2.SetReadDeadline(time.Now().Add(5*time.Second)))
	n, _ := io.Copy(io.Discard, c2) //nolint:errcheck // a reset is as good as an end
	require.Less(t, n, int64(32<<20))
}

// A connection lives on after a request that had deadlines.
func TestHandlerKeepsConnections(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{})
	srv := serve(t, s, blob.HandlerOptions{Stall: 2 * time.Second}) // a busy machine stands still for long
	b, d := blobtest.Random(1, 3<<20)
	conns := 0
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conns++
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	h := blob.NewHTTP(srv.URL, nil, &http.Client{Transport: tr})
	require.NoError(t, h.Put(t.Context(), d, int64(len(b)), blobtest.Bytes(b)))
	for range 2 {
		time.Sleep(2500 * time.Millisecond)
		got, err := blobtest.Get(t.Context(), h, d, 0, int64(len(b)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, got))
	}
	require.Equal(t, 1, conns)
}

// broken is a store whose every answer is err.
type broken struct{ err error }

func (b broken) Put(context.Context, snapshot.Digest, int64, func() (io.ReadCloser, error)) error {
	return b.err
}

func (b broken) Get(context.Context, snapshot.Digest, int64, int64) (io.ReadCloser, error) {
	return nil, b.err
}

func (b broken) Stat(context.Context, snapshot.Digest) (int64, error) { return 0, b.err }

func TestHandlerMapsErrors(t *testing.T) {
	_, d := blobtest.Random(1, 10)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{snapshot.ErrNotFound, 404, "NOT_FOUND"},
		{&snapshot.CorruptError{What: "blob"}, 422, "DIGEST_MISMATCH"},
		{blob.ErrFull, 507, "STORE_FULL"},
		{errors.New("/secret/path: input/output error"), 500, "INTERNAL"},
	} {
		srv := serve(t, broken{c.err}, blob.HandlerOptions{})
		for _, m := range []string{"PUT", "GET"} {
			a := call(t, m, srv.URL+"/"+d.String(), strings.NewReader("0123456789"))
			require.Equal(t, c.status, a.status)
			requireRefusal(t, a, c.code)
			require.NotContains(t, string(a.body), "secret")
		}
	}
}
