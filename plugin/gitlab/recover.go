package gitlab

import (
	"context"
	"fmt"
	"net/http"
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

// watch looks after jobs whose runners are silent.
func (s *service) watch(ctx context.Context) {
	every := min(5*time.Second, ms(min(s.cfg.AckMS, s.cfg.SilentMS)/4)+time.Millisecond)
	for sleep(ctx, every) {
		s.mu.Lock()
		jobs := make([]*job, 0, len(s.attempts))
		for _, j := range s.attempts {
			jobs = append(jobs, j)
		}
		s.mu.Unlock()
		for _, j := range jobs {
			s.check(j)
		}
		if s.customs != nil {
			s.customs.expire()
		}
	}
}

func (s *service) check(j *job) {
	rec, silent := j.record(), j.silent()
	j.mu.Lock()
	told := !j.told.IsZero()
	j.mu.Unlock()
	switch rec.State {
	case stateDelivering:
		if silent > ms(s.cfg.AckMS) {
			j.silence("its runner never said that it got it")
		}
	case stateRunning:
		switch {
		case told && silent > ms(s.cfg.SilentMS):
			j.end(final{Quiet: true, Outcome: plugin.OutcomeCanceled, Reason: "canceled, and its runner has stopped"})
		case silent > ms(s.cfg.SilentMS) && s.now().After(rec.Deadline):
			j.runnerDied("its time is over and its runner is silent")
		}
	case stateLost:
		if silent > ms(s.cfg.SilentMS) {
			j.stopped("its runner is silent")
		}
	case stateDone:
		if s.now().Sub(rec.Done) > keepDone {
			s.drop(j)
		}
	}
}

// drop forgets a job that is done.
func (s *service) drop(j *job) {
	rec := j.record()
	if err := s.recs.remove(rec.Attempt); err != nil {
		s.log.Error("a record can't be removed", "job", j.id, "error", err)
	}
	j.lose(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.attempts, rec.Attempt)
	if s.jobs[j.id] == j {
		delete(s.jobs, j.id)
	}
}

// follow watches the connection over which a job was handed out. If it ends before the
// runner says a word, the job was in the answer that nobody read.
func (s *service) follow(r *http.Request, j *job) {
	c, ok := r.Context().Value(connKey{}).(*tracked)
	if !ok {
		return
	}
	s.spawn(func(ctx context.Context) {
		select {
		case <-c.closed:
		case <-j.freed:
			return
		case <-ctx.Done():
			return
		}
		// Its first word may be on its way over another connection.
		if sleep(ctx, min(10*time.Second, ms(s.cfg.AckMS))) && j.record().State == stateDelivering && j.silent() > 0 {
			j.silence("its runner broke off when it was handed out")
		}
	})
}

// silence ends a job of which its runner never spoke. A runner that would have spoken has
// not got it, and somebody else may have it. Of another one nobody knows.
func (j *job) silence(why string) {
	if j.record().Announces {
		j.undelivered(why)
		return
	}
	if j.silent() > ms(j.s.cfg.SilentMS) {
		j.runnerDied(why)
	}
}

// undelivered gives back a job that no runner has seen.
func (j *job) undelivered(why string) {
	j.s.log.Warn("a job was not delivered", "job", j.id, "why", why)
	j.lose(errGone)
	j.end(final{Quiet: true, Outcome: plugin.OutcomeUndelivered, Reason: why})
}

// runnerDied ends a job whose runner is no more.
func (j *job) runnerDied(why string) {
	if rec := j.record(); rec.State == stateDelivering && rec.Announces {
		j.undelivered(why)
		return
	}
	j.s.log.Warn("a job's runner is gone", "job", j.id, "why", why)
	j.end(final{Outcome: plugin.OutcomeSystem, Reason: "the runner of this job has gone: " + why})
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
