package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// checkOutput refuses an output that can't be: of a job that did not succeed, from
// inputs that it was not given, or one that is another job's.
func (t *txn) checkOutput(j *state.Job, f api.Finish) error {
	if f.Output == "" {
		return nil
	}
	if f.Status != api.StatusSuccess {
		return invalid("a job that ended as %s has no output", f.Status)
	}
	for _, p := range f.Parents {
		if !slices.ContainsFunc(j.Inputs, func(in api.Input) bool { return in.Snapshot == p }) {
			return invalid("output %s comes from %s, which is not an input of the job", f.Output, p)
		}
	}
	if x := t.snapshots.get(f.Output); x != nil && x.Job != "" {
		return invalid("snapshot %s is another job's output", f.Output)
	}
	return nil
}

// endJob records the outcome of a job.
func (t *txn) endJob(a *state.Attempt, f api.Finish) {
	j := t.editJob(a.Job)
	p := t.pipelines.get(j.Pipeline)
	j.Status, j.Code, j.Reason, j.ExitCode, j.RunMS, j.EndMS = f.Status, f.Code, f.Reason, f.ExitCode, f.RunMS, t.ms()
	j.Workspace = f.Workspace
	if f.Output != "" {
		j.Output = f.Output
		t.keepSnapshot(p, j, a, f)
	}
	if f.Status == api.StatusSuccess {
		t.learn(p.Project, j.Def.Spec.Name, float64(f.RunMS))
	}
	if p.Open && j.Output != "" {
		t.plantOpen(p, j)
	}
	t.look[j.Pipeline] = true
	text := string(f.Status)
	if f.Reason != "" {
		text += ": " + f.Reason
	}
	t.event(j.Pipeline, j, text)
}

// keepSnapshot records the output of j. Facts about its layer may be there already.
func (t *txn) keepSnapshot(p *state.Pipeline, j *state.Job, a *state.Attempt, f api.Finish) {
	x := t.editSnapshot(f.Output)
	if x == nil {
		x = &state.Snapshot{ID: f.Output, Version: 1}
		t.keep(t.snapshots.set(x.ID, x))
	}
	x.Job, x.JobName, x.Project, x.Zone, x.Host = j.ID, j.Def.Spec.Name, p.Project, p.Zone, a.Host
	x.CreatedMS, x.Bytes, x.Parents = t.ms(), f.Bytes, f.Parents
	if h := t.hosts.get(a.Host); h != nil {
		x.Fingerprint = h.Fingerprint
	}
	if pr := t.w.fleet[a.Host]; pr != nil {
		pr.holds[f.Output] = f.Bytes
	}
}

// learn keeps a moving average of how long a job's script takes.
func (t *txn) learn(project, job string, ms float64) {
	k := durationKey{project, job}
	d, ok := t.durations[k]
	if !ok {
		d = t.w.durations[k]
	}
	d.Project, d.Job = project, job
	d.Count++
	d.MS += (ms - d.MS) / float64(min(d.Count, 8))
	t.durations[k] = d
}

// endAttempt ends an attempt and frees its slot.
func (t *txn) endAttempt(id snapshot.ID, status api.Status, code api.Code, reason string) *state.Attempt {
	a := t.editAttempt(id)
	ran := a.Stage != state.AttemptAssigned
	a.Stage, a.Status, a.Code, a.Reason, a.EndMS = state.AttemptEnded, status, code, reason, t.ms()
	if p := t.w.fleet[a.Host]; p != nil {
		// Its host will ask for more now.
		p.expect = t.now.Add(pollGap)
		if ran && p.pool != nil {
			p.back = append(p.back, t.now)
		}
	}
	t.place = true
	return a
}

// infra ends an attempt that failed for no fault of its script. The job is queued
// again, for another host if there is one, until that happened too often. byHost
// says that the host itself reported it.
func (t *txn) infra(a *state.Attempt, code api.Code, reason string, byHost bool) {
	if t.jobs.get(a.Job).Def.External != nil {
		t.outsideFault(a, code, reason, byHost, false)
		return
	}
	a = t.endAttempt(a.ID, api.StatusFailed, code, reason)
	a.Finished = byHost
	j := t.jobs.get(a.Job)
	if j.Cancel {
		t.endCanceled(j.ID)
		return
	}
	limit := max(t.s.o.MaxInfraRetries, 0)
	if j.Infra >= limit || code == api.FailConflict {
		if code != api.FailConflict && limit > 0 {
			reason = fmt.Sprintf("tried %d times, the last time on %s: %s", j.Attempts, a.Host, reason)
			code = api.FailRetries
		}
		j = t.editJob(j.ID)
		j.Status, j.Code, j.Reason, j.EndMS = api.StatusFailed, code, reason, t.ms()
		t.look[j.Pipeline] = true
		t.event(j.Pipeline, j, reason)
		return
	}
	t.again(j.ID, fmt.Sprintf("%s on %s: %s; tried again", code, a.Host, reason), func(j *state.Job) {
		j.Infra++
		if !slices.Contains(j.Avoid, a.Host) {
			j.Avoid = append(slices.Clip(j.Avoid), a.Host)
		}
		if j.Infra > 1 {
			j.NotBefore = t.now.Add(time.Second << (j.Infra - 2)).UnixMilli()
		}
		if j.Origin == api.OriginSeed && attachFault(code) {
			// A seed is worth one attempt, not a job.
			t.fix(j, given{origin: api.OriginNone, code: api.WorkspaceSeedGone, reason: "its seed could not be used: " + reason})
		}
	})
}

// attachFault reports whether an attempt failed over the files that it was given,
// or may have. The job that made a seed chose what is in it: a .git that git can't
// work with, a directory in which no checkout can start. As only green pipelines make
// new seeds, such a one would be in the way of each pipeline from then on.
func attachFault(c api.Code) bool {
	switch c {
	case api.FailInput, api.FailFetch, api.FailCorrupt, api.FailAttach, api.FailSource:
		return true
	default:
		return false
	}
}

// again queues a job for another attempt.
func (t *txn) again(id, text string, edit func(*state.Job)) {
	j := t.editJob(id)
	edit(j)
	j.Status, j.Code, j.Reason = api.StatusQueued, api.WaitSlot, ""
	j.Host, j.QueuedMS = "", t.ms()
	t.place = true
	t.event(j.Pipeline, j, text)
}
