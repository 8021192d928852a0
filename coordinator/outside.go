package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

const (
	// reportWait is how long a job waits for the end of a parent that its system says
	// has ended: its host may not have reached us yet.
	reportWait = 15 * time.Second
	// askWait is how long a job waits for the answer to what it needs.
	askWait = 5 * time.Second
	// maxOutsideWait and outsideShare bound how long a job whose clock runs may wait
	// for a better host.
	maxOutsideWait = 120 * time.Second
	outsideShare   = 0.05
)

// owe notes that a job's system has to be told of its end, until it answers. A job
// that its runner had from the start is the runner's to end.
func (t *txn) owe(id, why string, stopped bool) { t.oweAt(id, why, stopped, 0) }

// oweAt is owe for a job of which the system may hear from its host: it is told only
// after a while, and its log is left alone.
func (t *txn) oweAt(id, why string, stopped bool, later time.Duration) {
	j := t.jobs.get(id)
	if j.Def.External == nil || j.Def.External.Host != "" || j.Outside.Owed != "" {
		return
	}
	j = t.editJob(id)
	j.Outside.Owed, j.Outside.OwedMS, j.Outside.Stopped = first(why, "it failed"), t.now.Add(later).UnixMilli(), stopped
	j.Outside.Quiet = later > 0
}

// lostPayload ends a job whose payload can't be read: there is no token with which
// anybody could be told.
func (t *txn) lostPayload(id string) error {
	j := t.jobs.get(id)
	if j == nil {
		return nil
	}
	if a := t.attempts.get(j.AttemptID); a != nil && a.Stage == state.AttemptAssigned {
		t.endAttempt(a.ID, api.StatusFailed, api.FailInput, errSealed.Error())
	}
	j = t.editJob(id)
	j.Outside.Owed = ""
	if !j.Status.Ended() {
		j.Status, j.Code, j.Reason, j.EndMS = api.StatusFailed, api.FailInput, errSealed.Error(), t.ms()
		t.look[j.Pipeline] = true
		t.event(j.Pipeline, j, j.Reason)
	}
	return nil
}

// outsideFault ends an attempt of another system's job that failed for no fault of its
// script. As long as no runner saw the job it goes to the next host; then it is over,
// since its system would not take a second report.
func (t *txn) outsideFault(a *state.Attempt, code api.Code, reason string, byHost, undelivered bool) {
	fresh := a.Stage == state.AttemptAssigned
	a = t.endAttempt(a.ID, api.StatusFailed, code, reason)
	a.Finished = byHost
	j := t.jobs.get(a.Job)
	switch {
	case j.Cancel:
		t.endCanceled(j.ID)
	case j.Def.External.Host == "" && (fresh || undelivered):
		t.again(j.ID, fmt.Sprintf("%s gave it back: %s; the next host gets it", a.Host, reason), func(j *state.Job) {
			j.Infra++
			if !slices.Contains(j.Avoid, a.Host) {
				j.Avoid = append(slices.Clip(j.Avoid), a.Host)
			}
			if j.Infra > 1 {
				j.NotBefore = t.now.Add(time.Second << min(j.Infra-2, 4)).UnixMilli()
			}
			j.Outside.Unsure = j.Outside.Unsure || !fresh
		})
	default:
		j = t.editJob(j.ID)
		j.Status, j.Code, j.Reason, j.EndMS = api.StatusFailed, code, reason, t.ms()
		later := time.Duration(0)
		if byHost {
			later = t.s.o.TellGrace
		}
		t.oweAt(j.ID, fmt.Sprintf("%s on %s: %s", code, a.Host, reason), false, later)
		t.look[j.Pipeline] = true
		t.event(j.Pipeline, j, reason)
	}
}

// outsideWait says why a job of another system can't be placed now although hosts may
// be free; "" if it can.
func (t *txn) outsideWait(j *state.Job) string {
	if j.Outside.Unsure || j.Outside.Sent < len(j.Outside.Log) {
		return "its log in GitLab is being written"
	}
	age := t.now.Sub(time.UnixMilli(j.Def.External.ReceivedMS))
	if j.Outside.Asking && age < askWait {
		return "GitLab is asked what it needs"
	}
	if age > reportWait {
		return ""
	}
	for _, id := range j.Outside.From {
		if p := t.jobs.get(id); p != nil && !p.Status.Ended() {
			return fmt.Sprintf("%s has ended, but %s did not say so yet", p.Def.Spec.Name, first(p.Host, "its host"))
		}
	}
	return ""
}

// outsideBound is how many seconds a job of another system may wait for a better host.
func outsideBound(j *state.Job) float64 {
	return min(maxOutsideWait.Seconds(), max(outsideShare*float64(j.Def.Spec.TimeoutMS)/1e3, 0.1))
}

// queueLimit is how long a job may wait for a host, and since when it does. One of
// another system has no more than its own time: then its token is worth nothing.
func (t *txn) queueLimit(j *state.Job) (since int64, limit time.Duration) {
	if j.Def.External == nil {
		return j.QueuedMS, t.s.o.QueueTimeout
	}
	return j.Def.External.ReceivedMS, min(t.s.o.QueueTimeout, time.Duration(j.Def.Spec.TimeoutMS)*time.Millisecond)
}
