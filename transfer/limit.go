package transfer

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/roost-ci/roost/internal/pause"
)

// limiter is a token bucket of bytes.
type limiter struct {
	now func() time.Time

	// mu guards the bucket. It is not held while somebody waits.
	mu     sync.Mutex
	rate   float64 // per second, 0 for no limit
	tokens float64
	filled time.Time
}

func newLimiter(rate int64, now func() time.Time) *limiter {
	return &limiter{rate: float64(max(rate, 0)), now: now, filled: now()}
}

// set changes the rate from now on.
func (l *limiter) set(rate int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate, l.tokens, l.filled = float64(max(rate, 0)), 0, l.now()
}

// burst is what may go out at once: what a tenth of a second gives, at least a byte.
func (l *limiter) burst() float64 { return max(l.rate/10, 1) }

// take waits until something may go out and returns how much, 1 to most bytes. It
// waits a second at the very most, for one byte at one byte per second, so a low rate
// never looks like a stall.
func (l *limiter) take(ctx context.Context, most int) (int, error) {
	for {
		n, wait := l.try(most)
		if n > 0 || most == 0 {
			return n, nil
		}
		if err := pause.For(ctx, wait); err != nil {
			return 0, err
		}
	}
}

func (l *limiter) try(most int) (n int, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 || most == 0 {
		return most, 0
	}
	now := l.now()
	l.tokens = min(l.burst(), l.tokens+l.rate*max(now.Sub(l.filled).Seconds(), 0))
	l.filled = now
	// Half a bucket at a time, not a byte: a packet per byte would be no help.
	want := math.Floor(max(min(float64(most), l.burst()/2), 1))
	if l.tokens < want {
		return 0, time.Duration((want-l.tokens)/l.rate*float64(time.Second)) + time.Microsecond
	}
	n = min(most, int(l.tokens))
	l.tokens -= float64(n)
	return n, 0
}

// giveBack returns what was taken and did not go out.
func (l *limiter) giveBack(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 || n == 0 {
		return
	}
	l.tokens = min(l.burst(), l.tokens+float64(n))
}
