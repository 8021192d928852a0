package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// attempt takes one claim through its life. ctx ends, with a cause, when it must
// stop; what must be told is told under out.
//
// Crash states, by what is durable, and what the next process makes of each:
//  1. before the view's row: the coordinator alone knows of the attempt; it is not
//     among those that the next process registers with, and is given to somebody.
//  2. view, not sealed: whatever of the job runs is killed, the view discarded, and
//     the attempt reported as lost (agent-died).
//  3. sealed, with its outcome in the same row: the outcome is reported.
//  4. reported, the row not marked: reported again, which gets the same answer.
func (a *Agent) attempt(ctx, out context.Context, c api.Claim, r *running) {
	inputs, ancestors := a.promised(ctx, &c)
	defer inputs()
	defer ancestors()
	accept, cancel := context.WithTimeout(ctx, max(time.Duration(c.AcceptMS)*time.Millisecond, time.Second))
	err := a.retry(accept, "accept", func(ctx context.Context) error { return a.o.Coordinator.Accept(ctx, r.ref) })
	cancel()
	if err != nil {
		a.log.Info("a claim could not be accepted", "attempt", c.Attempt, "job", c.Job.Name, "err", err)
		return
	}
	fail.Point("agent.accepted")
	a.log.Debug("accepted", "attempt", c.Attempt, "job", c.Job.Name, "slot", r.slot)
	begin := elapsed()
	log := a.openLog(r.ref, false)
	end := log.start(out)
	f, sealed := a.work(ctx, out, &c, r, begin, log, ancestors)
	end()
	a.finish(out, r.ref, f, sealed, func() { a.release(r) })
}

// work does everything between accept and finish, and returns what to report. It
// reports whether the view was sealed; otherwise finish discards it.
func (a *Agent) work(ctx, out context.Context, c *api.Claim, r *running, begin time.Duration, log *jobLog, attached func()) (api.Finish, bool) {
	log.say("job %q of pipeline %d on %s, slot %d, attempt %d", c.Job.Name, c.PipelineNumber, a.o.Name, r.slot, c.Number)
	p, err := a.attach(ctx, c, r.slot, begin, log)
	attached()
	if err != nil {
		return a.attachFailed(ctx, err, log), false
	}
	a.sayWorkspace(c, p, log)
	if ctx.Err() == nil {
		stop := a.started(ctx, r, api.Start{Workspace: p.ws})
		defer stop()
	}
	fail.Point("agent.started")
	a.log.Debug("started", "attempt", c.Attempt, "since", elapsed()-begin)
	run := elapsed()
	res, err := a.o.Adapter.Run(ctx, a.pluginJob(c, p), log)
	f := a.verdict(ctx, c, res, err)
	f.RunMS = (elapsed() - run).Milliseconds()
	f.Workspace = p.ws
	fail.Point("agent.script-done")
	if f.Status != api.StatusSuccess {
		log.say("%s", describe(f))
		return f, false
	}
	return a.commit(out, c, p, f, log, nil)
}

// started says that the script begins, in the background, and stops the attempt if
// it is not ours any more. The coordinator's answer is waited for no longer than it
// takes normally: the attempt was accepted, so it may go on without.
func (a *Agent) started(ctx context.Context, r *running, s api.Start) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := a.retry(ctx, "start", func(ctx context.Context) error { return a.o.Coordinator.Start(ctx, r.ref, s) })
		switch {
		case err == nil || ctx.Err() != nil:
		case fenced(err) || notFound(err):
			r.cancel(errFenced)
		default:
			a.log.Warn("start", "attempt", r.ref.Attempt, "err", err)
		}
	}()
	t := time.NewTimer(startWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
	return func() {
		cancel()
		<-done
	}
}

const startWait = 2 * time.Second

// pluginJob translates a claim for the adapter.
func (a *Agent) pluginJob(c *api.Claim, p *place) plugin.Job {
	j := plugin.Job{
		Attempt: c.Attempt, Name: c.Job.Name, View: p.view, Path: p.path,
		Before: c.Job.Before, Script: c.Job.Script, After: c.Job.After,
		Env:     a.environment(c, &p.ws, p.path),
		Timeout: time.Duration(c.Job.TimeoutMS) * time.Millisecond, Grace: a.o.Grace,
	}
	// What the parents made stays as they made it, tracked by git or not. A seed is
	// brought to this pipeline's commit, and an empty view too.
	if s := c.Source; s != nil && p.ws.Origin != api.OriginParent {
		j.Source = &plugin.Source{URL: s.URL, Ref: s.Ref, Commit: s.Commit}
		base := a.o.Coordinator.Base()
		if strings.HasPrefix(s.URL, "/") {
			j.Source.URL = base + s.URL
		}
		// The token is the coordinator's. Nobody else gets it.
		if strings.HasPrefix(j.Source.URL, base+"/") {
			j.Source.Header = "Authorization: Bearer " + c.Token
		}
	}
	return j
}

// verdict makes a report of what the adapter says.
func (a *Agent) verdict(ctx context.Context, c *api.Claim, res plugin.Result, err error) api.Finish {
	f := api.Finish{ExitCode: res.ExitCode, Reason: res.Reason, Commit: res.Commit}
	switch {
	case err != nil:
		a.log.Error("the adapter could not run a job", "attempt", c.Attempt, "err", err)
		f.Status, f.Infrastructure, f.Code, f.Reason = api.StatusFailed, true, api.FailAdapter, err.Error()
	case res.Status == plugin.StatusSuccess:
		f.Status = api.StatusSuccess
	case res.Status == plugin.StatusFailed:
		f.Status, f.Code = api.StatusFailed, api.FailScript
	case res.Status == plugin.StatusTimedOut:
		f.Status, f.Code = api.StatusFailed, api.FailTimeout
	case res.Status == plugin.StatusCanceled:
		return a.stopped(ctx, f)
	default:
		f.Status, f.Infrastructure, f.Code = api.StatusFailed, true, api.FailAdapter
		if c.Source != nil && res.Commit == "" && strings.HasPrefix(res.Reason, "checkout: ") {
			f.Code = api.FailSource
		}
	}
	return f
}

// stopped reports an attempt that was stopped, by why it was.
func (a *Agent) stopped(ctx context.Context, f api.Finish) api.Finish {
	why := context.Cause(ctx)
	switch {
	case errors.Is(why, errCanceled):
		f.Status, f.Code, f.Reason = api.StatusCanceled, api.FailCanceled, "canceled"
	case errors.Is(why, errFenced), errors.Is(why, errLease):
		f.Status, f.Infrastructure, f.Code, f.Reason = api.StatusFailed, true, api.FailHostLost, why.Error()
	default:
		f.Status, f.Infrastructure, f.Code, f.Reason = api.StatusFailed, true, api.FailAgentDied, errShutdown.Error()
	}
	return f
}

// attachFailed reports a job that never got its view.
func (a *Agent) attachFailed(ctx context.Context, err error, log sayer) api.Finish {
	var conflict *snapshot.ConflictError
	var f *fault
	out := api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailAttach, Reason: err.Error()}
	switch {
	case errors.As(err, &conflict):
		out.Infrastructure, out.Code, out.Reason = false, api.FailConflict, conflict.Error()
		sayConflicts(conflict, log)
	case ctx.Err() != nil:
		out = a.stopped(ctx, api.Finish{})
	case errors.As(err, &f):
		out.Code = f.code
		if f.code == api.FailDiskFull {
			a.noSpace()
		}
	}
	log.say("%s", describe(out))
	return out
}

// sayConflicts lists what a merge could not decide.
func sayConflicts(e *snapshot.ConflictError, log sayer) {
	const most = 50
	for i, c := range e.Conflicts {
		if i == most {
			log.say("… and %d more", len(e.Conflicts)-most)
			return
		}
		log.say("merge conflict at %s: %s by %q and %q", c.Where(), c.Kind, c.Jobs[0], c.Jobs[1])
	}
}

// sayWorkspace tells the job's log what it starts from, and what that cost.
func (a *Agent) sayWorkspace(c *api.Claim, p *place, log sayer) {
	w := &p.ws
	from := ""
	if w.State == api.StateFull {
		from = " from " + origins(c, w)
	}
	why := ""
	if w.Reason != "" && (c.External == nil || w.State != api.StateFull) {
		why = " (" + w.Reason + ")"
	}
	how := fmt.Sprintf(" (%s, %s)", w.Driver, w.Source)
	if c.External != nil {
		how = ""
	}
	log.say("workspace %s%s%s: %s, %s moved, ready in %s%s", w.State, from, why, size(w.BytesNeeded), size(w.BytesMoved),
		short(time.Duration(w.AttachMS*float64(time.Millisecond))), how)
	if w.MTimeDivergence > 0 {
		log.say("%d path(s) differed by time alone among the parents; the first parent's time was taken", w.MTimeDivergence)
	}
}

// origins says what a workspace was made of: for people who know the jobs by their
// names alone, also by which rule those were found.
func origins(c *api.Claim, w *api.Workspace) string {
	var jobs []string
	for _, in := range c.Inputs {
		name := in.Job
		if c.External == nil {
			name = fmt.Sprintf("%q", in.Job)
		}
		jobs = append(jobs, name)
	}
	s := strings.Join(jobs, ", ")
	switch {
	case c.External == nil:
		s = w.Origin + " " + s
	case w.Origin == api.OriginSeed:
		s = "a seed by " + s
	case c.External.Parents != "":
		s += " (" + c.External.Parents + ")"
	}
	if len(jobs) > 1 {
		s += ", merged"
	}
	return s
}

// describe says in one line how an attempt ended.
func describe(f api.Finish) string {
	s := "job " + string(f.Status)
	if f.Infrastructure {
		s += " (not the script's fault)"
	}
	if f.Code != "" {
		s += " [" + string(f.Code) + "]"
	}
	if f.Reason != "" {
		s += ": " + f.Reason
	}
	return s
}
