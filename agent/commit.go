package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// busyWait is how long a view that somebody else still writes to is waited for.
const busyWait = 10 * time.Second

// commit seals the view of a job that succeeded, if it is to have an output. What
// goes wrong here leaves the job as green as it is, without one. But a job
// that may have read what is not as it was fails, though its commands went well.
//
// quiet, if set, is called before each try to seal, with the error of the last one,
// which found somebody at the view. A view that it has an error for is not sealed.
func (a *Agent) commit(ctx context.Context, c *api.Claim, p *place, f api.Finish, log sayer, quiet func(busy error) error) (api.Finish, bool) {
	w := &c.Job.Workspace
	if p.view == "" {
		f.Code, f.Reason = p.ws.Code, p.ws.Reason
		log.say("job success; it had no workspace, and nothing of it is kept")
		return f, false
	}
	if w.Disabled || w.Commit == commitNever {
		f.Code = api.SealNever
		if w.Disabled {
			f.Code = api.WorkspaceDisabled
		}
		log.say("job success; its files are not kept (%s)", f.Code)
		return f, false
	}
	f.Output, f.Parents = c.Attempt, p.note.Inputs
	f.Workspace.Output = c.Attempt
	outcome, err := json.Marshal(f)
	if err != nil { // plain data
		return noOutput(f, api.SealFailed, err.Error()), false
	}
	begin := elapsed()
	info, err := a.seal(ctx, c.Attempt, outcome, quiet)
	if err != nil {
		a.log.Error("a view can't be sealed", "attempt", c.Attempt, "err", err)
		f = noOutput(f, api.SealFailed, err.Error())
		log.say("job success, but its files can't be kept: %v", err)
		return f, false
	}
	fail.Point("agent.sealed")
	f.Workspace.SealMS = ms(elapsed() - begin)
	f = a.judge(ctx, p.note, f, info)
	if info.State == store.Suspect { // sealed this minute: it is so because of what it stands on
		f.Status, f.Code, f.Infrastructure = api.StatusFailed, api.FailCorrupt, true
		f.Reason = "its workspace was found damaged while it ran (" + info.Err + ")"
		log.say("JOB FAILED: %s", f.Reason)
		return f, true
	}
	if f.Output == "" {
		log.say("job success without output [%s]: %s", f.Code, f.Reason)
	} else {
		log.say("job success; sealed as %s in %s (%s here)", f.Output,
			short(time.Duration(f.Workspace.SealMS*float64(time.Millisecond))), size(info.DiskBytes))
	}
	return f, true
}

// seal seals, and waits for somebody who still has a file open. Of a job that the
// agent ran itself nothing runs any more; but a person may look at a view, or a
// scanner. Of any other, quiet sees to it.
func (a *Agent) seal(ctx context.Context, id snapshot.ID, outcome []byte, quiet func(error) error) (store.Info, error) {
	var busy error
	for begin, wait := elapsed(), 5*time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		if quiet != nil {
			if err := quiet(busy); err != nil {
				return store.Info{}, err
			}
		}
		info, err := a.o.Store.Seal(ctx, id, outcome)
		if !errors.Is(err, snapshot.ErrBusy) || elapsed()-begin > busyWait || pause.For(ctx, wait) != nil {
			return info, err
		}
		busy = err
	}
}

// noOutput takes the output out of a report.
func noOutput(f api.Finish, code api.Code, reason string) api.Finish {
	f.Output, f.Parents, f.Bytes, f.Workspace.Output = "", nil, 0, ""
	f.Code, f.Reason = code, reason
	return f
}

// judge decides whether what was sealed is an output. The next process does the
// same with what this one could not report, so it looks only at what is on disk.
func (a *Agent) judge(ctx context.Context, n note, f api.Finish, info store.Info) api.Finish {
	if f.Output == "" {
		return f
	}
	if !info.State.Usable() {
		code := api.SealFailed
		if info.State == store.Broken {
			code = api.SealUnsupported
		}
		return noOutput(f, code, info.Err)
	}
	if n.Commit == commitIfChanged && a.unchanged(ctx, n, info.ID) {
		return noOutput(f, api.SealUnchanged, "no file was changed")
	}
	f.Bytes = info.DiskBytes
	return f
}

// unchanged reports whether a sealed snapshot is the same as what its job started
// from. What several parents make together is new in any case.
func (a *Agent) unchanged(ctx context.Context, n note, id snapshot.ID) bool {
	if len(n.Inputs) > 1 {
		return false
	}
	now, err := a.o.Store.Tree(ctx, id)
	if err != nil {
		a.log.Warn("if-changed: the tree can't be read; kept", "snapshot", id, "err", err)
		return false
	}
	if len(n.Inputs) == 0 {
		return len(now.Under("")) == 0
	}
	was, err := a.o.Store.Tree(ctx, n.Inputs[0])
	if err != nil || len(was.Entries) != len(now.Entries) {
		return false
	}
	for i := range now.Entries {
		x, y := &now.Entries[i], &was.Entries[i]
		// A directory's time says that something happened in it, not that it differs.
		if x.Type == snapshot.TypeDir && x.Path == y.Path && x.SameButTime(y) {
			continue
		}
		if !x.Equal(y) {
			return false
		}
	}
	return true
}

// finish reports an attempt and then lets go of its view. A failed one is discarded
// only then, so that a crash before leaves something to report. A sealed view holds
// no slot: freed is called as soon as the end is known, as the rows that follow may
// have to wait for the disk.
func (a *Agent) finish(ctx context.Context, ref api.AttemptRef, f api.Finish, sealed bool, freed func()) {
	got, told := a.report(ctx, ref, f)
	if !told {
		return // the view stays, with or without an outcome
	}
	if sealed {
		freed()
	}
	a.letGo(ctx, ref.Attempt, sealed)
	a.reported(ctx, ref, f, sealed, got)
}

// report tells the coordinator how an attempt ended until it has answered: told. got
// is nil if the attempt was not ours any more.
func (a *Agent) report(ctx context.Context, ref api.AttemptRef, f api.Finish) (got *api.Finished, told bool) {
	err := a.retry(ctx, "finish", func(ctx context.Context) error {
		var err error
		got, err = a.o.Coordinator.Finish(ctx, ref, f)
		return err
	})
	fail.Point("agent.finished")
	switch {
	case err == nil:
		a.log.Info("attempt ended", "attempt", ref.Attempt, "status", f.Status, "code", f.Code, "reason", f.Reason)
		return got, true
	case fenced(err), notFound(err):
		a.log.Warn("the attempt was somebody else's by then; what it made is kept as an orphan", "attempt", ref.Attempt)
	case api.Unreachable(err) || ctx.Err() != nil:
		a.log.Warn("the end of an attempt could not be reported; the next start does", "attempt", ref.Attempt, "err", err)
		return nil, false
	default:
		a.log.Error("the coordinator refuses the end of an attempt", "attempt", ref.Attempt, "err", err)
	}
	return nil, true
}

// reported does what the coordinator's answer asks for with what was sealed.
func (a *Agent) reported(ctx context.Context, ref api.AttemptRef, f api.Finish, sealed bool, got *api.Finished) {
	switch {
	case got == nil:
	case got.Output && f.Output != "":
		a.pack(ctx, f.Output)
	case sealed && f.Output == "": // nobody will ask for it
		if err := a.o.Store.Drop(context.WithoutCancel(ctx), ref.Attempt); err != nil {
			a.log.Warn("a layer without a use can't be dropped", "attempt", ref.Attempt, "err", err)
		}
	}
}

// letGo ends what the store keeps for an attempt that is over.
func (a *Agent) letGo(ctx context.Context, id snapshot.ID, sealed bool) {
	always := context.WithoutCancel(ctx)
	var err error
	if sealed {
		err = a.o.Store.Reported(always, id)
	} else {
		err = a.o.Store.Discard(always, id)
	}
	if err != nil && !errors.Is(err, snapshot.ErrNotFound) {
		a.log.Error("a view can't be let go", "attempt", id, "sealed", sealed, "err", err)
	}
	if !sealed && errors.Is(err, snapshot.ErrBusy) {
		a.mu.Lock()
		a.stuck++
		a.mu.Unlock()
		a.behind.Go(func() { a.discardLater(ctx, id) })
	}
	os.Remove(a.logPath(id)) //nolint:errcheck // the next start sweeps
	fail.Point("agent.let-go")
}

// discardLater discards a view that somebody holds open as soon as he lets go of
// it, or leaves that to the next start. It may be a person who looks at it, or
// another job to which its own job gave a descriptor.
func (a *Agent) discardLater(ctx context.Context, id snapshot.ID) {
	for wait := time.Second; pause.For(ctx, wait) == nil; wait = min(2*wait, 30*time.Second) {
		a.mu.Lock()
		draining := a.draining
		a.mu.Unlock()
		if draining {
			return
		}
		err := a.o.Store.Discard(ctx, id)
		if errors.Is(err, snapshot.ErrBusy) {
			continue
		}
		if err != nil {
			a.log.Error("a view can't be let go", "attempt", id, "err", err)
			return
		}
		a.mu.Lock()
		a.stuck--
		a.mu.Unlock()
		a.log.Info("a view that was held open is let go", "attempt", id)
		return
	}
}
