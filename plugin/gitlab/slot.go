package gitlab

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// slot is one [[runners]] entry. It has one job at a time and one request that waits.
type slot struct {
	s   *service
	cfg Slot

	// asking has a place for the one call of Claim that a slot may have.
	asking chan struct{}

	// mu guards what follows; it is not held across I/O.
	mu     sync.Mutex
	closed bool
	waiter *waiter
	hand   *hand // granted, no runner has it yet
	job    *job  // handed out; nil or freed: the slot may have another
}

// waiter is a held request.
type waiter struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Why a request is held no longer.
var (
	errReplaced = errors.New("another request of the slot came")
	errHeld     = errors.New("held long enough")
)

// take makes the caller the slot's waiter, in place of the one before: a runner that asks
// again has given up its earlier call, whether we have noticed or not.
func (sl *slot) take(ctx context.Context) *waiter {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &waiter{ctx: ctx, cancel: cancel}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.closed {
		cancel(errNotServing)
		return w
	}
	if sl.waiter != nil {
		sl.waiter.cancel(errReplaced)
	}
	sl.waiter = w
	if sl.hand != nil {
		sl.hand.adopt()
	}
	return w
}

// leave ends a wait. A job that was being made for it waits for the slot's next request
// if this one was answered, and is given back if its runner has gone.
func (sl *slot) leave(w *waiter, gone bool) {
	w.cancel(nil)
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.waiter != w {
		return
	}
	sl.waiter = nil
	if sl.hand == nil {
		return
	}
	if gone {
		sl.hand.drop(errGone)
		return
	}
	sl.hand.orphan(ms(sl.s.cfg.OrphanMS))
}

// close ends the wait for good.
func (sl *slot) close() {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.closed = true
	if sl.waiter != nil {
		sl.waiter.cancel(errNotServing)
	}
	if sl.hand != nil {
		sl.hand.drop(errNotServing)
	}
}

// next waits for a job that is ready for the waiter. nil: there is none in its time.
func (sl *slot) next(w *waiter, offer plugin.Offer) *hand {
	start := sl.s.now()
	held, cancel := context.WithTimeoutCause(w.ctx, ms(sl.s.cfg.HoldMS), errHeld)
	defer cancel()
	// A job that has come is waited for twice as long: well below what the runner
	// waits for an answer.
	longer, cancelLonger := context.WithTimeoutCause(w.ctx, 2*ms(sl.s.cfg.HoldMS), errHeld)
	defer cancelLonger()
	for sl.vacate(held, start) {
		h := sl.claim(held, w, offer)
		if h == nil {
			return nil
		}
		select {
		case <-h.ready:
			return h
		case <-h.ended: // canceled, or its workspace can't be had: the next one
		case <-longer.Done():
			return nil
		}
	}
	return nil
}

// claim is the slot's job in the making, or a new one from the agent.
func (sl *slot) claim(ctx context.Context, w *waiter, offer plugin.Offer) *hand {
	select {
	case sl.asking <- struct{}{}: // the request before has let go
		defer func() { <-sl.asking }()
	case <-ctx.Done():
		return nil
	}
	sl.mu.Lock()
	h := sl.hand
	sl.mu.Unlock()
	if h != nil {
		return h
	}
	tries := sl.s.tries()
	tries.Most = 5 * time.Second // a runner waits
	for ctx.Err() == nil {
		grant, err := sl.s.agent.Claim(ctx, offer)
		switch {
		case err == nil && grant != nil:
			return sl.start(grant, w, offer)
		case err == nil && ctx.Err() == nil:
			continue // the agent's own limit
		case ctx.Err() != nil:
			return nil
		}
		sl.s.log.Warn("the agent gave no answer; trying again", "slot", sl.cfg.Number, "error", err)
		if tries.Wait(ctx, 0) != nil {
			return nil
		}
	}
	return nil
}

// start makes a granted job ready. Its runner may have gone by now.
func (sl *slot) start(grant *plugin.Grant, w *waiter, offer plugin.Offer) *hand {
	h := newHand(sl, grant, offer)
	sl.mu.Lock()
	sl.hand = h
	gone := sl.waiter == nil || sl.closed
	if gone {
		h.drop(errGone)
	}
	sl.mu.Unlock()
	sl.s.spawn(h.run)
	return h
}

// forget takes a hand out of the slot if it is still there, and reports whether it was.
func (sl *slot) forget(h *hand) bool {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.hand != h {
		return false
	}
	sl.hand = nil
	return true
}

// vacate waits until the slot has no job from before. The runner of a slot has one
// job at a time, so that one which asks has none: if a job of the slot seems to run,
// its runner has died or never got it. As long as it still calls, its runner lives and is
// configured for more than one job, and it keeps the slot.
func (sl *slot) vacate(ctx context.Context, asked time.Time) bool {
	select {
	case <-sl.s.known:
	case <-ctx.Done():
		return false
	}
	for ctx.Err() == nil {
		sl.mu.Lock()
		j := sl.job
		sl.mu.Unlock()
		if j == nil {
			return true
		}
		select {
		case <-j.freed:
			sl.mu.Lock()
			if sl.job == j {
				sl.job = nil
			}
			sl.mu.Unlock()
			continue
		default:
		}
		wait := j.abandoned(asked)
		t := time.NewTimer(wait)
		select {
		case <-j.freed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return false
}

// abandoned is called for a job whose slot's runner asks for another one since asked. It ends the
// job if its runner is silent, and says when to look again.
func (j *job) abandoned(asked time.Time) time.Duration {
	rec := j.record()
	gone := ms(j.s.cfg.GoneMS)
	if rec.State == stateDelivering {
		gone = min(gone, 5*time.Second) // its first word comes at once
	}
	left := gone - min(j.silent(), j.s.now().Sub(asked))
	switch rec.State {
	case stateLost:
		j.stopped("its runner asked for another job")
	case stateDelivering, stateRunning:
		if left > 0 {
			return left
		}
		j.runnerDied("its runner asked for another job")
	}
	return time.Second
}
