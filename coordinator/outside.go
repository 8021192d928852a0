package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
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

// board is the coordinator as the GitLab service sees it.
type board struct{ s *Server }

var _ gitlab.Board = board{}

// Look implements gitlab.Board.
func (b board) Look() (gitlab.Work, <-chan struct{}) { return b.s.look() }

// Take implements gitlab.Board.
func (b board) Take(ctx context.Context, from gitlab.Pool, j *gitlab.Job, payload []byte) error {
	return b.s.take(ctx, from, j, payload)
}

// Token implements gitlab.Board.
func (b board) Token(ctx context.Context, id string) (gitlab.Secret, error) {
	payload, err := b.s.payload(ctx, id)
	if errors.Is(err, errSealed) {
		return "", errors.Join(gitlab.ErrOver, err, b.s.do(ctx, func(t *txn) error { return t.lostPayload(id) }))
	}
	if errors.Is(err, state.ErrNotFound) {
		return "", fmt.Errorf("%w: %w", gitlab.ErrOver, err)
	}
	if err != nil {
		return "", err
	}
	j, err := gitlab.Parse("", payload)
	return j.Token, err
}

// Intend implements gitlab.Board.
func (b board) Intend(ctx context.Context, id, text string) (gitlab.Log, bool, error) {
	var log gitlab.Log
	ok := false
	if err := b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if ok = j != nil && j.Status == api.StatusQueued && len(j.Outside.Log) == j.Outside.Sent; !ok {
			return nil
		}
		j = t.editJob(id)
		j.Outside.Log = append(slices.Clip(j.Outside.Log), text...)
		log = logIn(j)
		return nil
	}); err != nil {
		return gitlab.Log{}, false, err // the others may still be written
	}
	return log, ok, nil
}

// Wrote implements gitlab.Board.
func (b board) Wrote(ctx context.Context, id string, log gitlab.Log) (int64, error) {
	var version int64
	if err := b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if j == nil || j.Status != api.StatusQueued || len(log.Text) < j.Outside.Sent && !j.Outside.Unsure {
			return nil
		}
		j = t.editJob(id)
		j.Outside.Log, j.Outside.Sent, j.Outside.Unsure = log.Text, log.Sent, log.Unsure
		version, t.place = j.Version, true
		return nil
	}); err != nil {
		return 0, err // version may still be written
	}
	return version, nil
}

// logIn gives what is known of a job's log in its system.
func logIn(j *state.Job) gitlab.Log {
	return gitlab.Log{Text: j.Outside.Log, Sent: j.Outside.Sent, Unsure: j.Outside.Unsure, Version: j.Version}
}

// Needs implements gitlab.Board.
func (b board) Needs(ctx context.Context, id string, names []string, known bool) error {
	return b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if j == nil || !j.Outside.Asking {
			return nil
		}
		j = t.editJob(id)
		j.Outside.Asking, t.place = false, true
		if known && !j.Fixed && !j.Status.Ended() {
			j.Outside.From, j.Outside.Notes = t.fromNames(j, names, j.Outside.Notes, "the job needs")
			j.Outside.Rule = "needs, as GitLab's API says"
		}
		return nil
	})
}

// Over implements gitlab.Board.
func (b board) Over(ctx context.Context, id, why string, wanted bool) error {
	return b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if j == nil || j.Status.Ended() {
			return nil
		}
		if a := t.attempts.get(j.AttemptID); a != nil && a.Stage != state.AttemptEnded {
			if a.Stage != state.AttemptAssigned {
				return nil // its host hears it, too
			}
			t.endAttempt(a.ID, api.StatusCanceled, api.FailCanceled, why)
		}
		j = t.editJob(id)
		j.Status, j.Code, j.Reason, j.EndMS = api.StatusCanceled, api.FailCanceled, why, t.ms()
		if wanted {
			t.owe(id, why, true)
		}
		t.look[j.Pipeline] = true
		t.event(j.Pipeline, j, why)
		return nil
	})
}

// Told implements gitlab.Board.
func (b board) Told(ctx context.Context, id string) error {
	return b.s.do(ctx, func(t *txn) error {
		if j := t.jobs.get(id); j == nil || j.Outside.Owed == "" {
			return nil
		}
		j := t.editJob(id)
		j.Outside.Owed, j.Outside.OwedMS = "", 0
		return nil
	})
}

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

// external makes the part of a claim that comes from another system, without the
// payload.
func (t *txn) external(j *state.Job) *api.External {
	e := j.Def.External
	if e == nil {
		return nil
	}
	notes := j.Outside.Notes
	if s := (j.StartMS - e.ReceivedMS) / 1000; s >= 2 && len(j.Outside.Log) == 0 && j.Outside.Waited != "" {
		notes = append(slices.Clip(notes), fmt.Sprintf("waited %d s for a host: %s", s, j.Outside.Waited))
	}
	return &api.External{
		System: e.System, ID: fmt.Sprint(e.ID), Slot: e.Slot, AgeMS: max(0, t.ms()-e.ReceivedMS), Log: j.Outside.Log,
		Name: e.Name, Off: e.Off, Parents: j.Outside.Rule, Contained: t.contained(j), Durability: e.Durability,
		FetchBudgetMS: e.FetchBudgetMS, Notes: notes,
	}
}

// contained lists the jobs of j's pipeline, by their system's ids, whose files are all
// in j's inputs: those that made an input or something that it came from, and those
// that left such a thing as it was.
func (t *txn) contained(j *state.Job) []string {
	in := map[snapshot.ID]bool{}
	for _, i := range j.Inputs {
		in[i.Snapshot] = true
		t.ancestors(i.Snapshot, in)
	}
	p := t.pipelines.get(j.Pipeline)
	if p == nil || len(in) == 0 {
		return nil
	}
	var out []string
	for _, id := range p.Jobs {
		o := t.jobs.get(id)
		if o == nil || o.ID == j.ID || o.Status != api.StatusSuccess || o.Def.External == nil {
			continue
		}
		has := o.Output != "" && in[o.Output]
		if o.Output == "" && o.Code == api.SealUnchanged && len(o.Inputs) > 0 {
			has = !slices.ContainsFunc(o.Inputs, func(i api.Input) bool { return !in[i.Snapshot] })
		}
		if has {
			out = append(out, fmt.Sprint(o.Def.External.ID))
		}
	}
	return out
}

// plantOpen makes a success in a pipeline that nobody will see the end of a seed, as
// long as nothing in it failed.
func (t *txn) plantOpen(p *state.Pipeline, j *state.Job) {
	for _, id := range p.Jobs {
		if o := t.jobs.get(id); o.Status == api.StatusFailed && t.newest(o) {
			return
		}
	}
	t.plantSeed(p, j)
}

// endOpen sets the status so far of a pipeline that may still get jobs.
func (t *txn) endOpen(p *state.Pipeline) {
	status := api.StatusSuccess
	for _, id := range p.Jobs {
		j := t.jobs.get(id)
		switch {
		case !j.Status.Ended():
			if p.Status != api.StatusRunning {
				p = t.editPipeline(p.ID)
				p.Status, p.EndedMS = api.StatusRunning, 0
			}
			return
		case !t.newest(j):
		case j.Status == api.StatusCanceled:
			status = api.StatusCanceled
		case j.Status == api.StatusFailed && status == api.StatusSuccess:
			status = api.StatusFailed
		}
	}
	if p.Canceled {
		status = api.StatusCanceled
	}
	if p.Status == status {
		return
	}
	p = t.editPipeline(p.ID)
	p.Status, p.EndedMS = status, t.ms()
	t.event(p.ID, nil, string(status)+" so far")
}

// closeIdle closes the pipelines that got no job for a while. A job that comes later
// opens its pipeline again.
func (t *txn) closeIdle() {
	for id := range t.w.pipelines {
		p := t.pipelines.get(id)
		if !p.Open || !p.Status.Ended() || t.ms()-max(p.AddedMS, p.EndedMS) < t.s.o.PipelineIdle.Milliseconds() {
			continue
		}
		owed := slices.ContainsFunc(p.Jobs, func(id string) bool { return t.jobs.get(id).Outside.Owed != "" })
		if !owed {
			t.editPipeline(id).Open = false
		}
	}
}
