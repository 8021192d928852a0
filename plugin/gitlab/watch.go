package gitlab

import (
	"context"
	"net/http"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/plugin"
)

// watch looks after jobs whose runners are silent.
func (s *service) watch(ctx context.Context) {
	every := min(5*time.Second, ms(min(s.cfg.AckMS, s.cfg.SilentMS)/4)+time.Millisecond)
	for pause.For(ctx, every) == nil {
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
		if pause.For(ctx, min(10*time.Second, ms(s.cfg.AckMS))) == nil && j.record().State == stateDelivering && j.silent() > 0 {
			j.silence("its runner broke off when it was handed out")
		}
	})
}

// silence ends a job of which its runner never spoke. A runner that would have spoken has
// not got it, and somebody else may have it. Of another one nobody knows.
func (j *job) silence(why string) {
	if rec := j.record(); rec.Announces && !rec.doubtful {
		j.undelivered(why)
		return
	}
	if j.silent() > ms(j.s.cfg.SilentMS) {
		j.runnerDied(why)
	}
}

// undelivered gives back a job that no runner has seen. It does nothing if the runner has
// spoken by now, or if the job has got another end meanwhile: GitLab is to hear of that.
func (j *job) undelivered(why string) {
	fin, ours := final{Quiet: true, Outcome: plugin.OutcomeUndelivered, Reason: why}, false
	err := j.change(func(r *record) {
		if r.Final == nil && r.State == stateDelivering {
			r.Final, r.State, ours = &fin, stateEnding, true
		}
	})
	if err != nil {
		j.s.log.Error("a job's end can't be written", "job", j.id, "error", err)
		return
	}
	if ours {
		j.s.log.Warn("a job was not delivered", "job", j.id, "why", why)
		j.lose(errGone)
		j.finish()
	}
}

// runnerDied ends a job whose runner is no more.
func (j *job) runnerDied(why string) {
	if rec := j.record(); rec.State == stateDelivering && rec.Announces && !rec.doubtful {
		j.undelivered(why)
		return
	}
	j.s.log.Warn("a job's runner is gone", "job", j.id, "why", why)
	j.end(final{Outcome: plugin.OutcomeSystem, Reason: "the runner of this job has gone: " + why})
}
