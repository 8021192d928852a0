package gitlab

import (
	"context"
	"fmt"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// keepDone is how long GitLab's answer to a job's end is kept for a runner that asks again.
const keepDone = time.Hour

// load reads the records of the process before.
func (s *service) load() {
	list, bad := s.recs.load()
	for _, err := range bad {
		s.log.Error("a record of a job can't be read", "error", err)
	}
	for _, rec := range list {
		j := s.newJob(*rec)
		j.heard = s.now()
		s.enlist(j)
		if sl := s.slots[rec.Slot]; sl != nil && rec.State != stateDone {
			sl.job = j
		}
		if rec.State == stateLost {
			j.lose(errLost)
		}
		if rec.Final != nil && rec.Final.Settled {
			j.release()
		}
	}
}

// resume goes on with what the process before was at.
func (j *job) resume() {
	if j.record().State == stateEnding {
		j.finish()
	}
}

// enlist makes a job findable by its id. An older attempt of it has no say any more.
func (s *service) enlist(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.jobs[j.id]; old == nil || !old.record().Handed.After(j.record().Handed) {
		s.jobs[j.id] = j
	}
	s.attempts[j.record().Attempt] = j
}

// recover compares what the agent holds for us with the records. Nothing is claimed before.
// What it holds and no record knows was granted and never handed out: the record comes first.
func (s *service) recover(ctx context.Context) {
	var held []plugin.Held
	if !s.tell(ctx, "held", func(ctx context.Context) (err error) {
		held, err = s.agent.Held(ctx)
		return err
	}) {
		return
	}
	here := map[snapshot.ID]bool{}
	for _, h := range held {
		here[h.Attempt] = true
		s.mu.Lock()
		j := s.attempts[h.Attempt]
		s.mu.Unlock()
		if j == nil && !s.giveBack(ctx, h) {
			return
		}
	}
	if s.customs != nil {
		s.customs.reconcile(here)
	}
	s.mu.Lock()
	var orphans []*job
	for attempt, j := range s.attempts {
		if !here[attempt] {
			orphans = append(orphans, j)
		}
	}
	s.mu.Unlock()
	for _, j := range orphans {
		switch j.record().State {
		case stateDelivering, stateRunning:
			j.end(final{Outcome: plugin.OutcomeSystem, Reason: "this host lost the job: the agent does not know it any more"})
		case stateLost:
			j.stopped("the agent has ended it")
		default: // it has its end, and the agent gives the answer that it gave before
		}
	}
	close(s.known)
}

// giveBack ends an attempt that no record knows.
func (s *service) giveBack(ctx context.Context, h plugin.Held) bool {
	d := plugin.DiscardRequest{Attempt: h.Attempt, Outcome: plugin.OutcomeUndelivered}
	if s.customs != nil {
		if s.customs.holds(h.Attempt) {
			return true
		}
		d.Outcome = plugin.OutcomeSystem // its runner had it all along
	}
	s.log.Info("a job that was never handed out goes back", "attempt", string(h.Attempt), "slot", h.Slot)
	return s.discard(ctx, d)
}

// lost implements Plugin.Lost.
func (s *service) lost(attempt snapshot.ID, why string) error {
	s.mu.Lock()
	j, h := s.attempts[attempt], s.hands[attempt]
	s.mu.Unlock()
	if h != nil {
		h.drop(fmt.Errorf("%w: %s", errLost, why))
	}
	if j == nil {
		return nil
	}
	err := j.change(func(r *record) {
		switch {
		case r.State == stateDelivering || r.State == stateRunning:
			r.State = stateLost
		case r.State == stateEnding && !r.Final.Settled:
			r.Final.Quiet, r.Final.Success, r.Final.Outcome = true, false, plugin.OutcomeCanceled
		case r.State == stateEnding:
			r.Final.Quiet = true
		}
	})
	j.lose(fmt.Errorf("%w: %s", errLost, why))
	return err
}

// stopped ends a job that was lost and whose runner has stopped.
func (j *job) stopped(why string) {
	j.end(final{Quiet: true, Outcome: plugin.OutcomeCanceled, Reason: why})
}
