package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/roost-ci/roost/snapshot"
)

// rangeHeader asks for n bytes at off, or for all from there if n is negative. It is
// empty where that is the whole blob.
func rangeHeader(off, n int64) string {
	switch {
	case n > 0:
		return fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	case off > 0:
		return fmt.Sprintf("bytes=%d-", off)
	}
	return ""
}

// emptyRange opens a range without bytes, which HTTP has no words for.
func emptyRange(ctx context.Context, s sizer, d snapshot.Digest, off int64) (io.ReadCloser, error) {
	size, err := s.Stat(ctx, d)
	if err != nil {
		return nil, err
	}
	if _, err := checkRange(d, off, 0, size); err != nil {
		return nil, err
	}
	return http.NoBody, nil
}

// rangeRefused finds out what err, of a server that was asked for a range, means. Right
// at the end is no error if all from there was asked for.
func rangeRefused(ctx context.Context, s sizer, d snapshot.Digest, off, n int64, err error) (io.ReadCloser, error) {
	var e *StatusError
	switch {
	case !errors.As(err, &e) || e.Status != http.StatusRequestedRangeNotSatisfiable:
		return nil, err
	case n < 0:
		return emptyRange(ctx, s, d, off)
	}
	return nil, corrupt(d, fmt.Sprintf("asked for %d bytes at %d: %.100s", n, off, e.Text))
}
