package blob

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
)

func (h *handler) get(q *request) error {
	if err := h.check(q); err != nil {
		return err
	}
	size, err := h.store.Stat(q.Context(), q.digest)
	if err != nil {
		return err
	}
	head := q.w.Header()
	head.Set("ETag", etag(q.digest))
	head.Set("Accept-Ranges", "bytes")
	// Never gzip on the way: packs are compressed, and Content-Length must hold.
	head.Set("Cache-Control", "private, immutable, no-transform, max-age=31536000")
	if matches(q.Header.Get("If-None-Match"), q.digest) {
		q.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	off, n, status := int64(0), size, http.StatusOK
	r := q.Header.Get("Range")
	if r != "" && q.Method == http.MethodGet && rangeApplies(q.Header.Get("If-Range"), q.digest) {
		var ok bool
		switch off, n, ok = parseRange(r, size); {
		case ok && off < 0:
			head.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			return &StatusError{
				Status: http.StatusRequestedRangeNotSatisfiable, Code: codeInvalid,
				Text: fmt.Sprintf("no such range: the blob has %d bytes", size),
			}
		case ok:
			status = http.StatusPartialContent
			head.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, size))
		default:
			off, n = 0, size
		}
	}
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Content-Length", strconv.FormatInt(n, 10))
	if q.Method == http.MethodHead {
		q.w.WriteHeader(status)
		return nil
	}
	return h.send(q, status, off, n)
}

// sendStep is how much may go out under one deadline.
const sendStep = 1 << 20

// send writes n bytes at off, and cuts off a client that stands still. The last
// deadline stays for what is still buffered; the server takes it away after that.
func (h *handler) send(q *request, status int, off, n int64) error {
	rc, err := h.store.Get(q.Context(), q.digest, off, n)
	if err != nil {
		return err
	}
	defer rc.Close() //nolint:errcheck // only read from
	src := io.Reader(rc)
	if f, ok := rc.(*fileRange); ok {
		src = f.f // known to sendfile(2); n bounds it as well
	}
	q.begun = true
	q.w.WriteHeader(status)
	for n > 0 {
		q.rc.SetWriteDeadline(h.o.Now().Add(h.o.Stall)) //nolint:errcheck // a test's recorder has none
		m, err := io.CopyN(q.w, src, min(n, sendStep))
		if n -= m; err != nil {
			return err
		}
	}
	return nil
}
