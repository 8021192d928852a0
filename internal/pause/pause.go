// Package pause has the waits between tries: one that ends with a context, and one that
// grows from failure to failure.
package pause

import (
	"context"
	"encoding/binary"
	"io"
	"time"
)

// For waits for d and returns nil, or the cause of ctx as soon as that has ended.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Backoff doubles from First to Most.
type Backoff struct {
	First, Most time.Duration
	// Rand makes half of each wait random, so that many hosts that lost one server
	// together do not come back together. nil: every wait is what it is.
	Rand io.Reader
}

// After is the wait after the n-th failure in a row, n from 1.
func (b Backoff) After(n int) time.Duration {
	d := b.First
	for ; n > 1 && d < b.Most; n-- {
		d *= 2
	}
	if d = min(d, b.Most); b.Rand == nil {
		return d
	}
	return Jitter(d, b.Rand)
}

// Tries waits after each of several failures in a row.
type Tries struct {
	Backoff
	failures int
}

// Next counts one more failure and returns the wait after it.
func (t *Tries) Next() time.Duration {
	t.failures++
	return t.After(t.failures)
}

// Wait counts one more failure and waits, for least if that is longer. It returns nil, or
// the cause of ctx as soon as that has ended.
func (t *Tries) Wait(ctx context.Context, least time.Duration) error {
	return For(ctx, max(least, t.Next()))
}

// Reset makes the next failure the first again.
func (t *Tries) Reset() { t.failures = 0 }

// Jitter is between half of d and all of it.
func Jitter(d time.Duration, rand io.Reader) time.Duration {
	return d/2 + time.Duration(Fraction(rand)*float64(d/2))
}

// Fraction draws from [0, 1). Where rand fails it is 0.5: jitter is a courtesy, not
// worth an error.
func Fraction(rand io.Reader) float64 {
	var p [8]byte
	if _, err := io.ReadFull(rand, p[:]); err != nil {
		return 0.5
	}
	return float64(binary.LittleEndian.Uint64(p[:])>>11) / (1 << 53)
}
