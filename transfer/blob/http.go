package blob

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/roost-ci/roost/snapshot"
)

// HTTP is a Store behind a Handler somewhere else.
type HTTP struct{ base string }

// NewHTTP returns a client of the Handler at base, such as
// "http://127.0.0.1:7000/v1/blobs". token, if not nil, is asked for a bearer token
// before each request. c nil means a client of its own.
func NewHTTP(base string, token func() string, c *http.Client) *HTTP { return &HTTP{base} }

// Put implements Store.
func (h *HTTP) Put(ctx context.Context, d snapshot.Digest, size int64, open func() (io.ReadCloser, error)) error {
	return errors.ErrUnsupported
}

// Get implements Store.
func (h *HTTP) Get(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// Stat implements Store.
func (h *HTTP) Stat(ctx context.Context, d snapshot.Digest) (int64, error) {
	return 0, errors.ErrUnsupported
}
