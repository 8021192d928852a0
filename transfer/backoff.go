package transfer

import (
	"errors"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// backoff is how long to wait before another try.
type backoff struct{ pause.Backoff }

// after returns the wait after the n-th failure in a row, n from 1. A server that
// said when to come back is not asked earlier.
func (b backoff) after(n int, err error) time.Duration {
	d := b.After(n)
	var s *blob.StatusError
	if errors.As(err, &s) && s.RetryAfter > d {
		d = s.RetryAfter + time.Duration(pause.Fraction(b.Rand)*float64(s.RetryAfter/4))
	}
	return d
}

// permanent reports whether the blob store will answer the same however often it is
// asked. Whatever is not known to be permanent is not: connections break in too many ways.
func permanent(err error) bool {
	var c *snapshot.CorruptError
	if errors.As(err, &c) || errors.Is(err, snapshot.ErrNotFound) {
		return true
	}
	var s *blob.StatusError
	return errors.As(err, &s) && !s.Temporary()
}
