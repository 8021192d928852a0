package agent

import (
	"context"
	"errors"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// Values of External.Durability. The last two are waited for.
const (
	durabilityLocal   = "local"
	durabilitySynced  = "synced"
	durabilityDurable = "durable"
)

// tellWait is how long the end of an attempt waits for a coordinator that does not
// answer. The report goes on behind it.
const tellWait = 10 * time.Second

// Seal implements plugin.Agent. Sealing goes on when the call ends.
func (s served) Seal(ctx context.Context, q plugin.SealRequest) (*plugin.Sealed, error) {
	g, err := s.a.guest(q.Attempt)
	if err != nil {
		return nil, err
	}
	begin := elapsed()
	if err := g.endBy(ctx, func() { g.seal(q, begin) }); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.note.Sealed == nil {
		return &plugin.Sealed{Reason: "it was discarded before"}, nil
	}
	return g.note.Sealed, nil
}

// Discard implements plugin.Agent.
func (s served) Discard(ctx context.Context, d plugin.DiscardRequest) error {
	g, err := s.a.guest(d.Attempt)
	if errors.Is(err, errNoAttempt) {
		return nil // it went long ago
	}
	if err != nil {
		return err
	}
	return g.endBy(ctx, func() { g.discard(d) })
}

// endBy has the attempt ended by end, unless it is by something else, and waits for
// it.
func (g *guest) endBy(ctx context.Context, end func()) error {
	var stopping bool
	g.endOnce.Do(func() { stopping = !g.a.spawn(end) })
	if stopping {
		return errStopping
	}
	select {
	case <-g.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-g.a.quitting.Done():
	}
	if g.over(ctx, endWait) && ctx.Err() == nil {
		return nil
	}
	return errStopping // the next process answers
}

// endWait is how long an agent that is about to end waits for the end of an attempt.
const endWait = 2 * time.Second

// settled waits for an attach that is under way, which it breaks off, and makes sure
// that none begins.
func (g *guest) settled(why error) {
	g.stopAttach(why)
	g.attachOnce.Do(func() { close(g.idle) })
	<-g.idle
}

// seal ends a job that succeeded.
func (g *guest) seal(q plugin.SealRequest, begin time.Duration) {
	a := g.a
	ctx := a.out
	var cancel context.CancelFunc
	if q.Within > 0 {
		ctx, cancel = context.WithTimeout(ctx, max(q.Within-(elapsed()-begin), time.Millisecond))
		defer cancel()
	}
	g.settled(errors.New("the job has ended"))
	t := &told{log: g.log}
	p, c := g.note.place(), &g.note.Claim
	f, sealed := g.sealedBefore()
	if !sealed {
		f = api.Finish{Status: api.StatusSuccess, RunMS: q.Run.Milliseconds(), Workspace: p.ws}
		f, sealed = a.commit(ctx, c, p, f, t, g.quiet(t, true))
	}
	fail.Point("agent.guest.sealed")
	if !sealed && a.out.Err() != nil {
		return // it was cut short; the next process goes on with it
	}
	f, err := a.promise(ctx, c, f, t)
	if err != nil {
		return // same
	}
	if !sealed {
		g.noteEnd(f)
		g.drop(t)
	}
	g.tell(ctx, f, sealed, t)
}

// discard ends a job that leaves nothing.
func (g *guest) discard(d plugin.DiscardRequest) {
	g.settled(errors.New("the job has ended"))
	f := api.Finish{
		Status: api.StatusFailed, ExitCode: d.ExitCode, Reason: oneLine(d.Reason), RunMS: d.Run.Milliseconds(),
		Workspace: g.note.Place.Workspace,
	}
	switch d.Outcome {
	case plugin.OutcomeUndelivered:
		f = goneBack(oneLine(d.Reason))
	case plugin.OutcomeCanceled:
		f.Status, f.Code = api.StatusCanceled, api.FailCanceled
	case plugin.OutcomeSystem:
		f.Infrastructure, f.Code = true, api.FailAdapter
		if g.note.RefusedCode != "" {
			f.Code, f.Infrastructure = g.note.RefusedCode, g.note.RefusedCode != api.FailConflict
		}
		if f.Reason == "" {
			f.Reason = g.note.Refused
		}
	default:
		f.Code = api.FailScript
	}
	t := &told{log: g.log}
	t.say("%s", describe(f))
	g.noteEnd(f)
	fail.Point("agent.guest.discarding")
	g.drop(t)
	g.tell(g.a.out, f, false, t)
}

// noteEnd writes down how the attempt ended, before what it left goes.
func (g *guest) noteEnd(f api.Finish) {
	if err := g.change(func(n *guestNote) { n.Finish = &f }); err != nil {
		g.a.log.Warn("the end of an attempt can't be noted down", "attempt", g.r.ref.Attempt, "err", err)
	}
}

// drop discards the view, if there is one, and frees the slot.
func (g *guest) drop(log sayer) {
	a, id := g.a, g.r.ref.Attempt
	quiet := g.quiet(log, false)
	var err error
	for begin, wait := elapsed(), 5*time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		if qerr := quiet(err); qerr != nil {
			a.log.Warn("what a job left", "attempt", id, "err", qerr)
		}
		err = a.o.Store.Discard(context.WithoutCancel(a.out), id)
		if !errors.Is(err, snapshot.ErrBusy) || elapsed()-begin > busyWait || pause.For(a.out, wait) != nil {
			break
		}
	}
	if err != nil {
		a.log.Error("a view can't be let go", "attempt", id, "err", err)
		a.mu.Lock()
		a.stuck++
		a.mu.Unlock()
		a.later(func() { a.discardLater(a.out, id) })
	}
	fail.Point("agent.guest.dropped")
	a.free(g.r)
}

// free gives the slot back: its workspace is gone, or sealed. The coordinator may
// still have to hear of that.
func (a *Agent) free(r *running) {
	a.mu.Lock()
	a.vacateLocked(r)
	a.mu.Unlock()
	a.wake()
}
