package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/internal/fail"
)

const (
	// maxBatch bounds what one commit takes: everybody in it waits for all of it.
	maxBatch = 256
	// tick is how often leases and waits are looked at when nothing else happens.
	tick = time.Second
	// maxGap: a longer time between two ticks means that this process did not run.
	maxGap = 5 * time.Second
)

// errStopped answers operations that come after the end.
var errStopped = &api.Error{HTTP: 503, Code: api.CodeInternal, Text: "the coordinator is shutting down"}

// op is one operation for the loop. done gets its outcome after the commit.
type op struct {
	run  func(*txn) error
	done chan error
}

// do runs f in the next batch and returns when that is durable. f runs under
// Server.mu and must not wait for anything. What f writes to variables of the
// caller may be read only if do returned nil or f's own error.
func (s *Server) do(ctx context.Context, f func(*txn) error) error {
	o := op{run: f, done: make(chan error, 1)}
	select {
	case s.ops <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return errStopped
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		select {
		case err := <-o.done:
			return err
		default:
			return errStopped
		}
	}
}

// loop is the single writer. It returns when ctx ends or the state is broken.
func (s *Server) loop(ctx context.Context) error {
	defer close(s.stopped)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		var ops []op
		select {
		case o := <-s.ops:
			ops = s.gather(o)
		case <-ticker.C:
			ops = []op{s.tickOp()}
		case <-ctx.Done():
			return nil
		}
		// The commit is not cut off: half of the callers would not know.
		if err := s.run(context.WithoutCancel(ctx), ops); err != nil {
			return err
		}
	}
}

// gather takes what else is there.
func (s *Server) gather(first op) []op {
	ops := []op{first}
	for len(ops) < maxBatch {
		select {
		case o := <-s.ops:
			ops = append(ops, o)
		default:
			return ops
		}
	}
	return ops
}

func (s *Server) tickOp() op {
	return op{run: func(t *txn) error { t.tick(); return nil }, done: make(chan error, 1)}
}

// run runs one batch: operations, what follows from them, commit, answers.
func (s *Server) run(ctx context.Context, ops []op) error {
	s.mu.Lock()
	t := s.begin(s.now())
	outcomes := make([]error, len(ops))
	for i, o := range ops {
		t.mark()
		if outcomes[i] = o.run(t); outcomes[i] != nil {
			t.rollback()
		}
	}
	t.mark()
	err := t.settle()
	b := t.batch()
	s.mu.Unlock()
	if err != nil {
		return s.answer(ops, outcomes, err)
	}
	if t.assigned > 0 {
		fail.Point("coordinator.assign")
	}
	if err := s.state.Apply(ctx, b); err != nil {
		return s.answer(ops, outcomes, err)
	}
	if t.assigned > 0 {
		fail.Point("coordinator.assign.committed")
	}
	s.mu.Lock()
	t.install()
	s.mu.Unlock()
	s.wake(t)
	return s.answer(ops, outcomes, nil)
}

// answer tells everybody. A full disk is told and survived; any other error of the
// state ends the coordinator, since memory and disk may differ now.
func (s *Server) answer(ops []op, outcomes []error, err error) error {
	var told error
	if err != nil {
		told = &api.Error{HTTP: 500, Code: api.CodeInternal, Text: "the coordinator's state can't be written: " + err.Error()}
		if errors.Is(err, state.ErrFull) {
			told = &api.Error{HTTP: 507, Code: api.CodeFull, Text: "the coordinator's disk is full"}
		}
	}
	for i, o := range ops {
		if outcomes[i] != nil {
			o.done <- outcomes[i]
		} else {
			o.done <- told
		}
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, state.ErrFull) {
		s.log.Error("state not written", "error", err)
		return nil
	}
	return fmt.Errorf("coordinator's state: %w", err)
}

// wake tells those who wait what was committed.
func (s *Server) wake(t *txn) {
	if t.poke || len(s.world.kept) > 0 || len(t.payloads) > 0 {
		s.outside.set()
	}
	for _, e := range t.events {
		s.hub.notify(eventsOf(e.Pipeline))
	}
	for _, a := range t.attempts.dirty {
		switch a.Stage {
		case state.AttemptAssigned:
			s.hub.notify(claimsOf(a.Host))
		case state.AttemptEnded:
			s.hub.notify(logOf(string(a.ID)))
		}
	}
}

// settle draws the conclusions: which jobs can start, which can't any more, which
// pipelines are over, which job goes where.
func (t *txn) settle() error {
	for {
		for len(t.look) > 0 {
			for id := range t.look {
				delete(t.look, id)
				t.advance(id)
			}
		}
		if !t.place {
			return nil
		}
		t.place = false
		if err := t.schedule(); err != nil {
			return err
		}
	}
}

// tick does what time alone brings.
func (t *txn) tick() {
	s := t.s
	gap := t.now.Sub(s.ticked)
	s.ticked = t.now
	if gap > maxGap {
		// This process was stopped or the machine slept. Hosts could not reach it
		// meanwhile, so the time does not count against them.
		t.extend(gap)
	}
	t.expireHosts()
	t.expireClaims()
	if t.now.Sub(t.w.forgot) > forgetEvery {
		t.w.forgot = t.now
		t.w.forgetSnapshots()
		t.closeIdle()
	}
	t.poke = true
	t.place = true
}
