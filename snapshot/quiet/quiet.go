// Package quiet has work that nobody waits for stand aside while somebody is being
// served: whoever hands a workspace over from one job to the next needs each core
// and the disk for a few milliseconds, and would else share them with the packing and
// drawing of what earlier jobs left.
//
// Who serves holds a Gate. Work behind gets its context by Aside, and calls Step
// between two pieces that take some milliseconds each. Others are not held up: a
// context without a gate makes Step a no-op.
package quiet

import (
	"context"
	"io"
	"sync"
	"time"
)

// patience is how long one Step waits at most: were the gate held without end, work
// behind would go on slowly, and who waits for it against all rules gets it.
const patience = 100 * time.Millisecond

// Gate is open unless it is held. The zero value is ready.
type Gate struct {
	mu   sync.Mutex // guards all below
	held int
	open chan struct{} // closed when nobody holds it; nil if nobody does
}

// Hold shuts the gate until release is called, once.
func (g *Gate) Hold() (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held++; g.held == 1 {
		g.open = make(chan struct{})
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held--; g.held == 0 {
			close(g.open)
			g.open = nil
		}
	}
}

func (g *Gate) opens() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

type key struct{}

// Aside is the context of work that stands aside while g is held.
func Aside(ctx context.Context, g *Gate) context.Context { return context.WithValue(ctx, key{}, g) }

// Like returns ctx with the gate of from, if that has one: work that goes on under
// another life stands aside as what asked for it does.
func Like(ctx, from context.Context) context.Context {
	if g, ok := from.Value(key{}).(*Gate); ok {
		return Aside(ctx, g)
	}
	return ctx
}

// Pace returns a Step for many short pieces of one work: when one has waited in vain no
// further one waits, so that who holds the gate and needs the work after all is not held
// up by each of them. It is for one goroutine.
func Pace(ctx context.Context) (step func()) {
	given := false // up
	return func() {
		if !given && Held(ctx) {
			Step(ctx)
			given = Held(ctx)
		}
	}
}

// Writer returns a writer to w that goes at a Pace: for what has no context.
func Writer(ctx context.Context, w io.Writer) io.Writer { return pacedWriter{Pace(ctx), w} }

type pacedWriter struct {
	step func()
	w    io.Writer
}

func (p pacedWriter) Write(b []byte) (int, error) {
	p.step()
	return p.w.Write(b)
}

// Held reports whether Step would wait.
func Held(ctx context.Context) bool {
	g, ok := ctx.Value(key{}).(*Gate)
	return ok && g.opens() != nil
}

// Step waits while the gate of ctx is held, for a tenth of a second at most.
func Step(ctx context.Context) {
	g, ok := ctx.Value(key{}).(*Gate)
	if !ok {
		return
	}
	open := g.opens()
	if open == nil {
		return
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-open:
	case <-t.C:
	case <-ctx.Done():
	}
}
