package coordinator

import (
	"fmt"
	"strings"

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

// Bounds of how fast a host is believed to fetch, in bytes per second.
const minFetch, maxFetch = 1e3, 1e12

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
		// Estimates divide by it: it must be neither nothing nor without end.
		rate := min(max(float64(w.BytesMoved)/(w.AttachMS/1e3), minFetch), maxFetch)
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
	return fmt.Sprintf("running on a %s workspace: %s", w.State, strings.TrimPrefix(w.Reason, "cold: "))
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
	outside := j.Def.External != nil
	if f.Infrastructure || (outside && f.Undelivered) || (f.Status == api.StatusCanceled && !j.Cancel && !outside) {
		if f.Code == "" {
			f.Code, f.Reason = api.FailAdapter, "the host gave the job back"
		}
		if outside {
			t.outsideFault(a, f.Code, f.Reason, true, f.Undelivered)
		} else {
			t.infra(a, f.Code, f.Reason, true)
		}
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
