package blob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// HTTP is a Store behind a Handler somewhere else. It tries each call once: to try
// again, and for how long, is the caller's business.
type HTTP struct {
	base  string
	token func() string
	c     http.Client
}

// NewHTTP returns a client of the Handler at base, such as
// "http://127.0.0.1:7000/v1/blobs". token, if not nil, is asked for a bearer token
// before each request. c nil means a client of its own; of a given one, redirects
// are turned off, because they would carry the token elsewhere.
func NewHTTP(base string, token func() string, c *http.Client) *HTTP {
	h := &HTTP{base: strings.TrimRight(base, "/"), token: token}
	if c != nil {
		h.c = *c
	} else {
		h.c.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: 5 * time.Second,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   16,
			DisableCompression:    true,
			WriteBufferSize:       64 << 10,
			ReadBufferSize:        64 << 10,
		}
	}
	h.c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return h
}

// CloseIdle closes connections that nothing uses now.
func (h *HTTP) CloseIdle() { h.c.CloseIdleConnections() }

func (h *HTTP) request(ctx context.Context, method string, d snapshot.Digest, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, h.base+"/"+d.String(), body)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if h.token != nil {
		r.Header.Set("Authorization", "Bearer "+h.token())
	}
	r.Header.Set("Accept-Encoding", "identity")
	return r, nil
}

// do sends r. An answer above 299 becomes an error; Range's 416 is the caller's.
func (h *HTTP) do(r *http.Request, d snapshot.Digest) (*http.Response, error) {
	resp, err := h.c.Do(r) //nolint:bodyclose // the caller closes it
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer closeBody(resp)
	return nil, answerError(resp, d)
}

// answerError makes an error of an answer. Its text comes from outside and is cut.
func answerError(resp *http.Response, d snapshot.Digest) error {
	e := &StatusError{}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10)) //nolint:errcheck // only a text for people
	if json.Unmarshal(b, e) != nil {
		*e = StatusError{Text: http.StatusText(resp.StatusCode)}
	}
	e.Status, e.RetryAfter = resp.StatusCode, retryAfter(resp.Header)
	if e.Status == http.StatusUnprocessableEntity {
		return corrupt(d, fmt.Sprintf("the blob store refused it: %.200s", e.Text))
	}
	return fmt.Errorf("blob %s: %w", d, e)
}

// closeBody reads a small rest, so that the connection can be used again.
func closeBody(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 8<<10) //nolint:errcheck // nothing is lost by a new connection
	resp.Body.Close()                      //nolint:errcheck // only read from
}

// Put implements Store. The server hashes what it receives; its yes counts only as
// an answer to this request, or as the size of a blob that was there before.
func (h *HTTP) Put(ctx context.Context, d snapshot.Digest, size int64, open func() (io.ReadCloser, error)) error {
	// Opened on the first Read: a server that has the blob answers before that.
	// Closed here too: the transport may go on reading after Do has returned.
	b := &lazyBody{open: open}
	defer b.Close() //nolint:errcheck // only read from
	var rd io.Reader = b
	if size == 0 {
		rd = http.NoBody
	}
	r, err := h.request(ctx, http.MethodPut, d, rd)
	if err != nil {
		return err
	}
	r.ContentLength = size
	r.Header.Set("If-None-Match", "*") // create only; nothing is ever replaced
	r.Header.Set("Expect", "100-continue")
	r.Header.Set("Content-Type", "application/octet-stream")
	resp, err := h.do(r, d)
	if err != nil {
		return h.putError(ctx, d, size, b, err)
	}
	defer closeBody(resp)
	return confirmed(resp, d)
}

// putError finds out what a failed PUT means.
func (h *HTTP) putError(ctx context.Context, d snapshot.Digest, size int64, b *lazyBody, err error) error {
	if oerr := b.err(); oerr != nil {
		return fmt.Errorf("blob %s: %w", d, oerr)
	}
	var e *StatusError
	if !errors.As(err, &e) || e.Status != http.StatusPreconditionFailed {
		return err
	}
	// Some stores say so to If-None-Match when the blob is there.
	have, serr := h.Stat(ctx, d)
	if serr == nil && have != size {
		return corrupt(d, fmt.Sprintf("the blob store has %d bytes of %d", have, size))
	}
	return serr
}

// Stat implements Store.
func (h *HTTP) Stat(ctx context.Context, d snapshot.Digest) (int64, error) {
	r, err := h.request(ctx, http.MethodHead, d, nil)
	if err != nil {
		return 0, err
	}
	resp, err := h.do(r, d)
	if err != nil {
		return 0, err
	}
	defer closeBody(resp)
	if err := confirmed(resp, d); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		return 0, fmt.Errorf("blob %s: HEAD answered %d without a length", d, resp.StatusCode)
	}
	return resp.ContentLength, nil
}

// confirmed reports whether the store says, by its checksum, that it has d. A 200
// alone is no proof: login pages and misrouted proxies answer it to everything.
func confirmed(resp *http.Response, d snapshot.Digest) error {
	if t := resp.Header.Get("ETag"); t != etag(d) {
		return fmt.Errorf("blob %s: answered %d without confirming the digest (ETag %.80q)", d, resp.StatusCode, t)
	}
	return nil
}

// checkETag finds caches and proxies that answer a GET for something else. Where it
// is missing it says nothing: a reader verifies what it got.
func checkETag(resp *http.Response, d snapshot.Digest) error {
	t := strings.Trim(strings.TrimPrefix(resp.Header.Get("ETag"), "W/"), `"`)
	if got, err := snapshot.ParseDigest(t); err == nil && got != d {
		return fmt.Errorf("blob %s: the answer is about blob %s", d, got)
	}
	return nil
}
