package coordinator

import (
	"fmt"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
)

// advance moves the jobs of a pipeline on as far as their needs allow, and ends
// the pipeline with its last job.
func (t *txn) advance(id string) {
	p := t.pipelines.get(id)
	if p == nil || !p.Live() {
		return
	}
	if p.Open {
		t.endOpen(p)
		return
	}
	for again := true; again; {
		again = false
		for _, jid := range p.Jobs {
			if j := t.jobs.get(jid); j.Status == api.StatusPending {
				again = t.consider(j) || again
			}
		}
	}
	t.endPipeline(id)
}

// consider queues or skips a pending job if all that it waits for has ended, and
// reports whether it did.
func (t *txn) consider(j *state.Job) bool {
	for _, name := range j.Def.Waits {
		if w := t.job(j.Pipeline, name); w != nil && !w.Status.Ended() {
			return false
		}
	}
	switch j.Def.When {
	case pipeline.Always:
		t.queue(j.ID)
	case pipeline.OnFailure:
		if !t.failedAbove(j, map[string]bool{}) {
			t.skip(j.ID, "nothing that it waits for failed")
			break
		}
		t.queue(j.ID)
	default:
		if why := t.blocked(j); why != "" {
			t.skip(j.ID, why)
			break
		}
		t.queue(j.ID)
	}
	return true
}

// blocked says why a job with when: on_success can't run; "" if it can. A skipped
// job blocks the jobs that name it in needs. One of an earlier stage does not: what
// made it be skipped is itself in that stage or an earlier one.
func (t *txn) blocked(j *state.Job) string {
	for _, name := range j.Def.Waits {
		w := t.job(j.Pipeline, name)
		if w == nil {
			continue
		}
		switch {
		case w.Status == api.StatusFailed && !mayFail(w):
			return fmt.Sprintf("waits for %q, which failed", name)
		case w.Status == api.StatusCanceled:
			return fmt.Sprintf("waits for %q, which was canceled", name)
		case w.Status == api.StatusSkipped && j.Def.HasNeeds:
			return fmt.Sprintf("needs %q, which was skipped", name)
		}
	}
	return ""
}

// failedAbove reports whether a job that j waits for failed, or one that such a
// job waited for.
func (t *txn) failedAbove(j *state.Job, seen map[string]bool) bool {
	for _, name := range j.Def.Waits {
		w := t.job(j.Pipeline, name)
		if w == nil || seen[name] {
			continue
		}
		seen[name] = true
		if (w.Status == api.StatusFailed && !mayFail(w)) || t.failedAbove(w, seen) {
			return true
		}
	}
	return false
}

// mayFail reports whether the failure of j leaves its pipeline green.
func mayFail(j *state.Job) bool {
	a := pipeline.AllowFailure{Any: j.Def.AllowFailure, Codes: j.Def.AllowCodes}
	return a.Any || (j.Code == api.FailScript && a.Allows(j.ExitCode))
}

// queue makes a job runnable.
func (t *txn) queue(id string) {
	j := t.editJob(id)
	j.Status, j.Code, j.Reason = api.StatusQueued, api.WaitSlot, ""
	j.QueuedMS = t.ms()
	t.place = true
	t.event(j.Pipeline, j, "queued")
}

// skip ends a job that can't run any more.
func (t *txn) skip(id, why string) {
	j := t.editJob(id)
	j.Status, j.Code, j.Reason, j.EndMS = api.StatusSkipped, api.SkipNeeds, why, t.ms()
	t.look[j.Pipeline] = true
	t.event(j.Pipeline, j, why)
}

// endPipeline ends a pipeline whose jobs have all ended.
func (t *txn) endPipeline(id string) {
	p := t.pipelines.get(id)
	status := api.StatusSuccess
	for _, jid := range p.Jobs {
		j := t.jobs.get(jid)
		switch {
		case !j.Status.Ended():
			t.runPipeline(p, j)
			return
		case j.Status == api.StatusCanceled:
			status = api.StatusCanceled
		case j.Status == api.StatusFailed && !mayFail(j) && status == api.StatusSuccess:
			status = api.StatusFailed
		}
	}
	if p.Canceled {
		status = api.StatusCanceled
	}
	p = t.editPipeline(id)
	p.Status, p.EndedMS = status, t.ms()
	t.event(id, nil, string(status))
	if status == api.StatusSuccess {
		t.plantSeeds(p)
	}
}

// runPipeline marks a pipeline as running once one of its jobs was queued.
func (t *txn) runPipeline(p *state.Pipeline, j *state.Job) {
	if p.Status == api.StatusPending && j.Status != api.StatusPending {
		p = t.editPipeline(p.ID)
		p.Status = api.StatusRunning
		t.event(p.ID, nil, string(p.Status))
	}
}
