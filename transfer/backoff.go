package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// backoff doubles from first to most. Half of each wait is random, so that many
// hosts that lost one server together do not come back together.
type backoff struct {
	first, most time.Duration
	rand        io.Reader
}

// after returns the wait after the n-th failure in a row, n from 1. A server that
// said when to come back is not asked earlier.
func (b backoff) after(n int, err error) time.Duration {
	d := b.most
	if n < 32 {
		d = min(d, b.first<<(n-1))
	}
	d = d/2 + time.Duration(b.fraction()*float64(d/2))
	var s *blob.StatusError
	if errors.As(err, &s) && s.RetryAfter > d {
		d = s.RetryAfter + time.Duration(b.fraction()*float64(s.RetryAfter/4))
	}
	return d
}

// fraction draws from [0, 1).
func (b backoff) fraction() float64 {
	var p [8]byte
	if _, err := io.ReadFull(b.rand, p[:]); err != nil {
		return 0.5 // jitter is a courtesy, not worth an error
	}
	return float64(binary.LittleEndian.Uint64(p[:])>>11) / (1 << 53)
}

// sleep waits for d or the end of ctx, whose cause it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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
