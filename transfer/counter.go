package transfer

import (
	"context"
	"sync/atomic"
)

// Counter counts bytes received, those of broken and repeated transfers included.
type Counter struct{ n atomic.Int64 }

// Bytes returns the count.
func (c *Counter) Bytes() int64 { return c.n.Load() }

type counterKey struct{}

// WithCounter makes every Fetcher that reads under the returned context add to c.
// A counter of an outer context is counted too.
func WithCounter(ctx context.Context, c *Counter) context.Context {
	return context.WithValue(ctx, counterKey{}, &counters{c, countersOf(ctx)})
}

// counters is a list, innermost first.
type counters struct {
	c     *Counter
	outer *counters
}

func countersOf(ctx context.Context) *counters {
	l, _ := ctx.Value(counterKey{}).(*counters)
	return l
}

func (l *counters) add(n int64) {
	for ; l != nil; l = l.outer {
		l.c.n.Add(n)
	}
}
