package transfer

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// ErrStalled says that a fetch made no progress for FetcherOptions.Stall.
var ErrStalled = errors.New("the fetch made no progress")

// FetcherOptions says what a Fetcher needs. Blobs must be set.
type FetcherOptions struct {
	Blobs blob.Store
	Stall time.Duration // give up after so long without progress; default 60 s
	Log   hclog.Logger
	Now   func() time.Time
	Rand  io.Reader
}

// Fetcher reads blobs, and reads on where a connection broke.
type Fetcher struct{ o FetcherOptions }

// NewFetcher returns a Fetcher.
func NewFetcher(o FetcherOptions) *Fetcher { return &Fetcher{o: o} }

// Open returns the n bytes of blob d at off, or all from off if n is negative.
// The reader ends with io.EOF after exactly these bytes, or with an error.
func (f *Fetcher) Open(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}
