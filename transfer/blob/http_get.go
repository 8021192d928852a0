package blob

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// Get implements Store. An answer that is not exactly the range asked for is an
// error before its first byte is handed out.
func (h *HTTP) Get(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, corrupt(d, fmt.Sprintf("asked for offset %d", off))
	}
	if n == 0 {
		return emptyRange(ctx, h, d, off)
	}
	r, err := h.request(ctx, http.MethodGet, d, nil)
	if err != nil {
		return nil, err
	}
	if v := rangeHeader(off, n); v != "" {
		r.Header.Set("Range", v)
	}
	resp, err := h.do(r, d)
	if err != nil {
		return rangeRefused(ctx, h, d, off, n, err)
	}
	got, err := checkAnswer(resp, d, off, n)
	if err != nil {
		closeBody(resp)
		return nil, err
	}
	return &exactReader{r: resp.Body, c: resp.Body, left: got}, nil
}

// checkAnswer returns how many bytes of the body are the ones asked for.
func checkAnswer(resp *http.Response, d snapshot.Digest, off, n int64) (int64, error) {
	if err := checkETag(resp, d); err != nil {
		return 0, err
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return 0, fmt.Errorf("blob %s: somebody on the way encoded it as %.20q", d, e)
	}
	if resp.StatusCode == http.StatusPartialContent {
		return checkPartial(resp, d, off, n)
	}
	if resp.StatusCode != http.StatusOK || off != 0 {
		return 0, fmt.Errorf("blob %s: GET of a range answered %d", d, resp.StatusCode)
	}
	if resp.ContentLength < 0 {
		return 0, fmt.Errorf("blob %s: GET answered without a length", d)
	}
	return checkRange(d, 0, n, resp.ContentLength)
}

func checkPartial(resp *http.Response, d snapshot.Digest, off, n int64) (int64, error) {
	h := resp.Header.Get("Content-Range")
	c, ok := parseContentRange(h)
	got := c.last - c.first + 1
	if !ok || c.first != off || (n > 0 && got > n) || (resp.ContentLength >= 0 && resp.ContentLength != got) {
		return 0, fmt.Errorf("blob %s: asked for %d bytes at %d, answered %d bytes as %.80q", d, n, off, resp.ContentLength, h)
	}
	if want := c.size - off; c.size >= 0 && (n < 0 || want < n) {
		// The rest of the blob: all that was asked for, or all that there is.
		if got != want {
			return 0, fmt.Errorf("blob %s: asked for all from %d, answered %.80q", d, off, h)
		}
		_, err := checkRange(d, off, n, c.size)
		return got, err
	}
	if n < 0 || got != n {
		return 0, fmt.Errorf("blob %s: asked for %d bytes at %d, answered %.80q", d, n, off, h)
	}
	return got, nil
}

// lazyBody opens on the first Read. The transport may still read and close while
// the caller of Do goes on, hence the lock.
type lazyBody struct {
	open func() (io.ReadCloser, error)

	// mu guards the rest. It is held across open, which the closer must wait for.
	mu      sync.Mutex
	rc      io.ReadCloser
	openErr error
	closed  bool
}

func (b *lazyBody) get() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, io.ErrClosedPipe
	}
	if b.rc == nil && b.openErr == nil {
		b.rc, b.openErr = b.open()
	}
	return b.rc, b.openErr
}

// Read implements io.Reader.
func (b *lazyBody) Read(p []byte) (int, error) {
	rc, err := b.get()
	if err != nil {
		return 0, err
	}
	return rc.Read(p)
}

// Close implements io.Closer.
func (b *lazyBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.rc == nil {
		b.closed = true
		return nil
	}
	b.closed = true
	return b.rc.Close()
}

// err is why open failed, nil if it did not.
func (b *lazyBody) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.openErr
}
