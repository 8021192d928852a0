package gitlabtest

import (
	"slices"
	"time"
)

// enqueueLocked makes a job ready for runners, and tells their queues.
func (j *job) enqueueLocked(g *GitLab) {
	j.status, j.queued = Pending, g.o.Now()
	g.queue++
}

// endLocked ends a job. One that failed and has tries left gets a new attempt.
func (j *job) endLocked(g *GitLab, s Status, reason string, exit int) {
	j.status, j.reason, j.exitCode, j.ended = s, reason, exit, g.o.Now()
	if s == Failed && j.tries < j.def.Retry {
		j.pipeline.retryLocked(j)
	}
}

// advanceLocked lets time and stages do their work: acknowledgements that did not
// come in time (1.2), and jobs whose turn it is.
func (g *GitLab) advanceLocked() {
	for _, j := range g.jobs {
		if !j.ackUntil.IsZero() && g.o.Now().After(j.ackUntil) && !g.o.Breaks(AckExpires) {
			j.ackUntil = time.Time{}
			j.expireAckLocked(g)
		}
	}
	for _, pl := range g.pipelines {
		for again := true; again; {
			again = false
			for _, j := range pl.jobs {
				if j.status == Created && pl.turnLocked(j) {
					again = true
				}
			}
		}
	}
}

// expireAckLocked is the worker that gives a job to somebody else by a new attempt.
func (j *job) expireAckLocked(g *GitLab) {
	j.status, j.reason, j.ended = Failed, "runner_provisioning_timeout", g.o.Now()
	j.pipeline.retryLocked(j)
}

// turnLocked starts or skips a job whose turn it is.
func (pl *Pipeline) turnLocked(j *job) bool {
	before := pl.beforeLocked(j)
	failed, skipped := false, false
	for _, b := range before {
		if !b.status.Ended() && b.status != ManualJob {
			return false
		}
		switch {
		case b.status == ManualJob:
			if !b.def.AllowFailure && b.def.When == Manual && j.def.Needs != nil {
				return false // it waits for somebody to press the button
			}
		case b.status == Skipped:
			skipped = true
		case b.status != Success && !b.def.AllowFailure:
			failed = true
		}
	}
	switch j.def.When {
	case Always:
		j.enqueueLocked(pl.project.g)
	case OnFailure:
		if failed {
			j.enqueueLocked(pl.project.g)
		} else {
			j.status = Skipped
		}
	default:
		switch {
		case failed || skipped && j.def.Needs != nil:
			j.status = Skipped
		case j.def.When == Manual:
			j.status = ManualJob
		default:
			j.enqueueLocked(pl.project.g)
		}
	}
	return true
}

// beforeLocked are the jobs that j waits for.
func (pl *Pipeline) beforeLocked(j *job) []*job {
	var before []*job
	if j.def.Needs != nil {
		for _, n := range j.def.Needs {
			before = append(before, pl.namedLocked(n.Job)...)
		}
		return before
	}
	at := slices.Index(pl.def.Stages, j.def.Stage)
	for _, b := range pl.jobs {
		if !b.retried && slices.Index(pl.def.Stages, b.def.Stage) < at {
			before = append(before, b)
		}
	}
	return before
}

func (pl *Pipeline) statusLocked() Status {
	has := map[Status]bool{}
	for _, j := range pl.jobs {
		if j.retried {
			continue
		}
		if (j.status == Failed || j.status == ManualJob) && j.def.AllowFailure {
			continue
		}
		has[j.status] = true
	}
	switch {
	case has[Running] || has[Canceling]:
		return Running
	case has[Pending] || has[Created]:
		if has[ManualJob] && !has[Pending] {
			return ManualJob
		}
		return Pending
	case has[ManualJob]:
		return ManualJob
	case has[Failed]:
		return Failed
	case has[Canceled]:
		return Canceled
	}
	return Success
}
