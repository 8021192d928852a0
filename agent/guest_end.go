package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
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

// durability is what the success of an external job means.
func (a *Agent) durability(x *api.External) string {
	if p := a.pool(); x.Durability == "" && p != nil {
		return p.Durability
	}
	return x.Durability
}

// promise holds the job to the durability that its success means. What fails here is
// no success of the job's. errStopping says that it is not known yet.
func (a *Agent) promise(ctx context.Context, c *api.Claim, f api.Finish, log sayer) (api.Finish, error) {
	want := a.durability(c.External)
	if want != durabilitySynced && want != durabilityDurable {
		return f, nil
	}
	var err error
	switch {
	case f.Output != "":
		begin := elapsed()
		if err = a.waitDurable(ctx, f.Output, want); err == nil {
			log.say("the output is %s, after %s", want, short(elapsed()-begin))
			return f, nil
		}
		if errors.Is(err, errStopping) {
			return f, err
		}
	case f.Code == api.SealFailed || f.Code == api.SealUnsupported:
		err = errors.New(f.Reason)
	default:
		return f, nil // there is nothing to be kept
	}
	f = noOutput(f, api.FailDurable, fmt.Sprintf("its output was to be %s, and is not: %v", want, err))
	f.Status, f.Infrastructure = api.StatusFailed, true
	log.say("JOB FAILED: %s", f.Reason)
	return f, nil
}

// waitDurable waits until a sealed snapshot is as durable as want says.
func (a *Agent) waitDurable(ctx context.Context, id snapshot.ID, want string) error {
	if want == durabilityDurable {
		a.o.Store.First(id)
		a.pack(a.out, id)
	}
	for {
		in, err := a.o.Store.Lookup(id)
		if err != nil {
			return err
		}
		switch {
		case !in.State.Usable():
			return errors.New(in.Err)
		case in.State == store.Durable || want == durabilitySynced && in.Synced:
			return nil
		}
		a.up.Urgent(id)
		if a.quitting.Err() != nil {
			return errStopping
		}
		if pause.For(ctx, 10*time.Millisecond) != nil {
			if in.Err != "" {
				return fmt.Errorf("not in time: %s", in.Err)
			}
			return errors.New("not in time")
		}
	}
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
	if !r.freed {
		r.freed = true
		a.slots[r.slot-1] = false
	}
	a.mu.Unlock()
	a.wake()
}

// tell reports the end to the coordinator, and answers the plugin when that is done, or
// when it takes too long.
func (g *guest) tell(ctx context.Context, f api.Finish, sealed bool, t *told) {
	a := g.a
	g.noteEnd(f)
	a.free(g.r)
	answered := make(chan *api.Finished, 1)
	if !a.spawn(func() { g.report(f, sealed, answered) }) {
		answered <- nil
	}
	timer := time.NewTimer(a.tellWait)
	defer timer.Stop()
	var got *api.Finished
	known := false
	select {
	case got = <-answered:
		known = got != nil
	case <-timer.C:
	case <-ctx.Done():
	}
	if f.Status == api.StatusSuccess || f.Code == api.FailDurable || sealed {
		g.answerSeal(f, got, known, t)
	}
	if err := g.change(func(n *guestNote) { n.Over = a.o.Now().UnixMilli() }); err != nil {
		a.log.Warn("the end of an attempt can't be noted down", "attempt", g.r.ref.Attempt, "err", err)
	}
	close(g.ended)
}

// answerSeal makes the answer of Seal.
func (g *guest) answerSeal(f api.Finish, got *api.Finished, known bool, t *told) {
	s := &plugin.Sealed{Output: f.Output, Failed: f.Status != api.StatusSuccess}
	if f.Output == "" {
		s.Reason = oneLine(f.Reason)
	}
	switch {
	case known && !got.Output && f.Output != "":
		s.Output, s.Reason = "", "the coordinator did not take it"
		t.say("the coordinator did not take the output")
	case !known:
		t.say("the coordinator does not answer; it hears of this job later")
	}
	s.Lines = t.list()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.note.Sealed == nil { // else the plugin was answered by an earlier process
		g.note.Sealed = s
	}
}

// report tells the coordinator until it has answered, hands that on at once, and then
// lets go of the attempt. nil: it could not be told, or the attempt was somebody else's.
func (g *guest) report(f api.Finish, sealed bool, answered chan<- *api.Finished) {
	a := g.a
	g.endLog()
	got, told := a.report(a.out, g.r.ref, f)
	answered <- got // there is room for it
	if !told {
		return
	}
	if sealed {
		a.letGo(a.out, g.r.ref.Attempt, true)
	}
	a.reported(a.out, g.r.ref, f, sealed, got)
	os.Remove(a.logPath(g.r.ref.Attempt)) //nolint:errcheck // the next start sweeps
	if err := g.change(func(n *guestNote) { n.Told = true }); err != nil {
		a.log.Warn("a report can't be noted down", "attempt", g.r.ref.Attempt, "err", err)
	}
	g.release()
	a.release(g.r)
}
