package gitlab

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// streamHouse has job 5 with its runner, and a GitLab that does this.
func streamHouse(t *testing.T, do http.HandlerFunc, change ...func(*house)) (h *house, c *http.Client) {
	t.Helper()
	h = newHouse(t, change...)
	began(t, h, "5")
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/artifacts") { // of the job's log, which goes on
			w.WriteHeader(202)
			return
		}
		do(w, r)
	}))
	t.Cleanup(up.Close)
	h.aim.at(t, up.URL)
	c = &http.Client{Transport: &http.Transport{ExpectContinueTimeout: bigWait}}
	t.Cleanup(c.CloseIdleConnections)
	return h, c
}

const bigWait = 20e9 // 20 s, of which nothing is spent

func (h *house) artifacts(t *testing.T, method string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.addr+"/slot1/api/v4/jobs/5/artifacts", body)
	require.NoError(t, err)
	req.Header.Set("Job-Token", jobToken+"5")
	return req
}

// TestEarlyAnswer: GitLab may refuse an archive before it has all of it; the runner hears why, as it
// has to: 413 is final for it, and a broken connection is not.
func TestEarlyAnswer(t *testing.T) {
	h, c := streamHouse(t, func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1<<20)
		w.WriteHeader(413)
		io.WriteString(w, "too large")
	})
	body, w := io.Pipe()
	defer body.Close()
	go io.Copy(w, zeros{}) // as long as anybody reads
	resp, err := c.Do(h.artifacts(t, "POST", body))
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	require.NoError(t, err)
	require.Equal(t, 413, resp.StatusCode)
	require.Equal(t, "too large", string(b))
}

// TestUploadBroken: an archive of which the runner sent a part is none for GitLab.
func TestUploadBroken(t *testing.T) {
	seen := make(chan error, 1)
	begun := make(chan struct{})
	h, c := streamHouse(t, func(_ http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1000)
		close(begun)
		_, err := io.Copy(io.Discard, r.Body)
		seen <- err
	})
	body, w := io.Pipe()
	fell := errors.New("the runner fell")
	go func() {
		w.Write(make([]byte, 1000))
		<-begun
		w.CloseWithError(fell)
	}()
	_, err := c.Do(h.artifacts(t, "POST", body))
	require.ErrorIs(t, err, fell)
	require.Error(t, <-seen, "it must not look whole")
}

// TestDownloadBroken: an answer that breaks off is one that breaks off, with and without a length.
func TestDownloadBroken(t *testing.T) {
	for _, length := range []string{"1000000", ""} {
		h, c := streamHouse(t, func(w http.ResponseWriter, _ *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			w.Write(make([]byte, 500_000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := c.Do(h.artifacts(t, "GET", nil))
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, length)
		require.LessOrEqual(t, n, int64(500_000))
	}
}

// TestReaderGone: a runner that goes in the middle of an answer ends GitLab's, too.
func TestReaderGone(t *testing.T) {
	ended := make(chan struct{})
	h, c := streamHouse(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		io.Copy(w, zeros{})
	})
	resp, err := c.Do(h.artifacts(t, "GET", nil))
	require.NoError(t, err)
	io.CopyN(io.Discard, resp.Body, 1<<20)
	resp.Body.Close()
	<-ended
}

// TestFirstBytes: what has come of an answer without a length is passed on while more is awaited.
func TestFirstBytes(t *testing.T) {
	h, c := streamHouse(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	resp, err := c.Do(h.artifacts(t, "GET", nil))
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = io.ReadFull(resp.Body, b)
	require.NoError(t, err)
	require.Equal(t, "some", string(b))
	resp.Body.Close()
}

// TestExpectContinue: a runner that asks first sends nothing of an archive that is refused, and all
// of one that is not.
func TestExpectContinue(t *testing.T) {
	refuse := true
	h, c := streamHouse(t, func(w http.ResponseWriter, r *http.Request) {
		if refuse {
			w.WriteHeader(401)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		w.WriteHeader(201)
		io.WriteString(w, strings.Repeat("x", int(n)))
	})
	sent := 0
	ask := func() (*http.Response, string) {
		body := struct{ io.Reader }{readerFunc(func(p []byte) (int, error) {
			if sent == 100 {
				return 0, io.EOF
			}
			sent++
			return copy(p, "x"), nil
		})}
		req := h.artifacts(t, "POST", body)
		req.Header.Set("Expect", "100-continue")
		resp, err := c.Do(req)
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		return resp, string(b)
	}
	resp, _ := ask()
	require.Equal(t, 401, resp.StatusCode)
	require.Zero(t, sent)
	refuse = false
	resp, b := ask()
	require.Equal(t, 201, resp.StatusCode)
	require.Len(t, b, 100)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestStreamsKeepConnections: a connection carries the next call after a stream, of each kind.
func TestStreamsKeepConnections(t *testing.T) {
	h, _ := streamHouse(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.URL.Query().Get("length") == "" {
			w.(http.Flusher).Flush()
		}
		w.Write(make([]byte, n))
	})
	conn, err := net.Dial("tcp", h.addr)
	require.NoError(t, err)
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range 3 {
		for _, query := range []string{"", "?length=1"} {
			for _, size := range []int64{0, 10, 300_000} {
				req := h.artifacts(t, "POST", io.LimitReader(zeros{}, size))
				req.URL.RawQuery = strings.TrimPrefix(query, "?")
				if query != "" {
					req.ContentLength = size
				}
				go req.Write(conn)
				resp, err := http.ReadResponse(in, req)
				require.NoError(t, err)
				n, err := io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				require.Equal(t, size, n)
				require.False(t, resp.Close)
			}
		}
	}
}

// lateEnd lets a body's end be found late.
type lateEnd struct {
	http.RoundTripper
	answered <-chan struct{}
}

func (l lateEnd) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.ContentLength > 0 && strings.HasSuffix(req.URL.Path, "/artifacts") {
		req.Body = &lateBody{ReadCloser: req.Body, left: req.ContentLength, answered: l.answered}
	}
	return l.RoundTripper.RoundTrip(req)
}

type lateBody struct {
	io.ReadCloser
	left     int64
	answered <-chan struct{}
}

func (b *lateBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		<-b.answered
		return b.ReadCloser.Read(p)
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left == 0 {
		err = nil // is told the next time
	}
	return n, err
}

// TestAnswerBeforeTheEnd: an answer that comes before anybody has seen that the body ends where it was
// said to is passed on whole.
func TestAnswerBeforeTheEnd(t *testing.T) {
	answered := make(chan struct{})
	h, c := streamHouse(t, func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, r.ContentLength)
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond) // by now the proxy has the head
		close(answered)
		time.Sleep(50 * time.Millisecond) // for who might end it
		io.WriteString(w, ", second")
	}, func(h *house) { h.aim.base = lateEnd{h.aim.base, answered} })
	resp, err := c.Do(h.artifacts(t, "POST", strings.NewReader("an archive")))
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "first, second", string(b))
}

// TestSwitch: GitLab can't make a tunnel of a call.
func TestSwitch(t *testing.T) {
	h, c := streamHouse(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello")
	})
	resp, err := c.Do(h.artifacts(t, "GET", nil))
	if err != nil {
		require.False(t, errors.Is(err, context.DeadlineExceeded))
		return
	}
	defer resp.Body.Close()
	require.GreaterOrEqual(t, resp.StatusCode, 500)
}
