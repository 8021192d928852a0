package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// fenced is the answer to a host whose attempt is not the job's newest any more.
func fenced(id snapshot.ID, why string) error {
	return &api.Error{HTTP: 409, Code: api.CodeFenced, Text: fmt.Sprintf("attempt %s is over: %s", id, why)}
}

// hold checks that an attempt is live under an epoch.
func (t *txn) hold(r api.AttemptRef) (*state.Attempt, error) {
	a := t.attempts.get(r.Attempt)
	if a == nil {
		// What has ended with its pipeline is not kept in memory.
		return nil, fenced(r.Attempt, "it is not known any more")
	}
	if a.Epoch != r.Epoch {
		return nil, fenced(r.Attempt, fmt.Sprintf("its epoch is %d, not %d", a.Epoch, r.Epoch))
	}
	if a.Stage == state.AttemptEnded {
		return a, fenced(r.Attempt, a.Reason)
	}
	return a, nil
}

// accept takes a claim. A second accept is as good as the first.
func (t *txn) accept(r api.AttemptRef) error {
	a, err := t.hold(r)
	if err != nil {
		return err
	}
	t.seen(a)
	if a.Stage == state.AttemptAssigned {
		t.editAttempt(a.ID).Stage = state.AttemptAccepted
	}
	return nil
}

// start records that the script begins and what it found.
func (t *txn) start(r api.AttemptRef, s api.Start) error {
	a, err := t.hold(r)
	if err != nil {
		return err
	}
	t.seen(a)
	if a.Stage == state.AttemptRunning {
		return nil
	}
	a = t.editAttempt(a.ID)
	a.Stage, a.Workspace = state.AttemptRunning, s.Workspace
	j := t.editJob(a.Job)
	j.Status, j.Workspace, j.Code, j.Reason = api.StatusRunning, s.Workspace, s.Workspace.Code, s.Workspace.Reason
	t.event(j.Pipeline, j, found(s.Workspace))
	t.attached(a, j, s.Workspace)
	return nil
}

// attached notes what an attach taught: its host holds the inputs now, and how
// fast it fetched.
func (t *txn) attached(a *state.Attempt, j *state.Job, w api.Workspace) {
	if b := t.w.beats[a.ID]; b != nil {
		b.started, b.missing = t.now, 0
	}
	p := t.w.fleet[a.Host]
	if p == nil || w.State != api.StateFull {
		return
	}
	for _, in := range j.Inputs {
		if _, ok := p.holds[in.Snapshot]; !ok {
			p.holds[in.Snapshot] = 0
		}
	}
	if w.BytesMoved > 1<<20 && w.AttachMS > 0 {
		rate := float64(w.BytesMoved) / (w.AttachMS / 1e3)
		if p.fetch == 0 {
			p.fetch = rate
		}
		p.fetch = 0.7*p.fetch + 0.3*rate
	}
}

// found is the sentence for the start of a job.
func found(w api.Workspace) string {
	if w.State == "" {
		return "running"
	}
	return fmt.Sprintf("running on a %s workspace (%s): %s", w.State, w.Origin, w.Reason)
}

// seen notes that an attempt's host spoke of it.
func (t *txn) seen(a *state.Attempt) {
	if b := t.w.beats[a.ID]; b != nil {
		b.seen = t.now
	}
}

// finish ends an attempt as its host says. The job's output is set here and
// nowhere else, at most once for each epoch, in the transaction that ends it.
func (t *txn) finish(r api.AttemptRef, f api.Finish) (api.Finished, error) {
	a, err := t.hold(r)
	if a != nil && err != nil && a.Epoch == r.Epoch && a.Finished {
		return api.Finished{Output: a.IsOutput}, nil // told before
	}
	if err != nil {
		return api.Finished{}, err
	}
	j := t.jobs.get(a.Job)
	if f.Infrastructure || (f.Status == api.StatusCanceled && !j.Cancel) {
		if f.Code == "" {
			f.Code, f.Reason = api.FailAdapter, "the host gave the job back"
		}
		t.infra(a, f.Code, f.Reason, true)
		return api.Finished{}, nil
	}
	if err := t.checkOutput(j, f); err != nil {
		return api.Finished{}, err
	}
	a = t.endAttempt(a.ID, f.Status, f.Code, f.Reason)
	a.ExitCode, a.RunMS, a.Workspace, a.Finished, a.Output = f.ExitCode, f.RunMS, f.Workspace, true, f.Output
	if f.Status == api.StatusFailed && j.Retries < j.Def.Retry && !j.Cancel && f.Code != api.FailConflict {
		t.again(j.ID, fmt.Sprintf("exit status %d; tried again (%d of %d)", f.ExitCode, j.Retries+1, j.Def.Retry), func(j *state.Job) { j.Retries++ })
		return api.Finished{}, nil
	}
	a.IsOutput = f.Output != ""
	t.endJob(a, f)
	return api.Finished{Output: a.IsOutput}, nil
}

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
	a.Stage, a.Status, a.Code, a.Reason, a.EndMS = state.AttemptEnded, status, code, reason, t.ms()
	if p := t.w.fleet[a.Host]; p != nil {
		// Its host will ask for more now.
		p.expect = t.now.Add(pollGap)
	}
	t.place = true
	return a
}

// infra ends an attempt that failed for no fault of its script. The job is queued
// again, for another host if there is one, until that happened too often. byHost
// says that the host itself reported it.
func (t *txn) infra(a *state.Attempt, code api.Code, reason string, byHost bool) {
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
			t.fix(j, given{origin: api.OriginNone, code: api.WorkspaceSeedGone, reason: "its seed could not be attached: " + reason})
		}
	})
}

// attachFault reports whether an attempt failed over the files that it was given.
func attachFault(c api.Code) bool {
	return c == api.FailInput || c == api.FailFetch || c == api.FailCorrupt || c == api.FailAttach
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
