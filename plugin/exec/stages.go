package exec

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// session is where a job's processes live. Its methods are called by one
// goroutine.
type session interface {
	// start starts a shell with script. The channel gives its end, once.
	start(script string, env []string) (<-chan ended, error)
	// signal sends a signal to every process of the job: SIGTERM, or SIGKILL.
	signal(kill bool)
	// idle is closed when no process of the job is left after the last start.
	idle() <-chan struct{}
	// end kills everything and returns when nothing is left.
	end(ctx context.Context) error
}

// ended is how a shell ended. Code is as a shell would say it: 128 and more are
// signals.
type ended struct {
	Code   int
	Signal string // its name, "" if none
}

// run is one call of Adapter.Run.
type run struct {
	a   *Adapter
	job *plugin.Job
	at  *attempt
	s   session
}

// Why a shell was stopped.
var (
	errTimeout  = errors.New("time limit")
	errCanceled = errors.New("canceled")
)

// stages runs everything that the job consists of.
func (r *run) stages(ctx context.Context) plugin.Result {
	var commit string
	if r.job.Source != nil {
		c, err := r.checkout(ctx)
		switch {
		case errors.Is(err, errCanceled):
			return plugin.Result{Status: plugin.StatusCanceled, Reason: "canceled during the checkout"}
		case err != nil:
			return plugin.Result{Status: plugin.StatusSystemFailure, Reason: "checkout: " + err.Error()}
		}
		commit = c
	}
	lines := append(append([]string(nil), r.job.Before...), r.job.Script...)
	e, err := r.shell(ctx, compose(lines), r.env(nil), r.job.Timeout, r.job.Grace)
	res := r.result(e, err)
	res.Commit = commit
	if len(r.job.After) > 0 {
		r.after(ctx, res.Status)
	}
	return res
}

// after runs after_script. What becomes of it changes nothing. Of a canceled job
// it must be done within the grace period: somebody waits for the slot.
func (r *run) after(ctx context.Context, s plugin.Status) {
	status, limit := "failed", r.job.AfterTimeout
	switch s {
	case plugin.StatusSuccess:
		status = "success"
	case plugin.StatusCanceled:
		status, limit = "canceled", min(limit, r.job.Grace)
		ctx = context.WithoutCancel(ctx)
	default:
	}
	script := note("Running after_script") + compose(r.job.After)
	e, err := r.shell(ctx, script, r.env(map[string]string{"CI_JOB_STATUS": status}), limit, min(r.job.Grace, limit))
	if err != nil || e.Code != 0 {
		r.a.o.Log.Debug("after_script", "attempt", r.job.Attempt, "code", e.Code, "err", err)
	}
}

// result says what the end of the script means.
func (r *run) result(e ended, err error) plugin.Result {
	switch {
	case errors.Is(err, errCanceled):
		return plugin.Result{Status: plugin.StatusCanceled, ExitCode: e.Code, Reason: "canceled"}
	case errors.Is(err, errTimeout):
		return plugin.Result{
			Status: plugin.StatusTimedOut, ExitCode: e.Code,
			Reason: fmt.Sprintf("the script ran longer than %s", r.job.Timeout),
		}
	case err != nil:
		return plugin.Result{Status: plugin.StatusSystemFailure, Reason: err.Error()}
	case e.Signal != "":
		return plugin.Result{
			Status: plugin.StatusFailed, ExitCode: e.Code,
			Reason: fmt.Sprintf("the script's shell was killed (%s)", e.Signal),
		}
	case e.Code != 0:
		return plugin.Result{
			Status: plugin.StatusFailed, ExitCode: e.Code,
			Reason: fmt.Sprintf("the script failed with exit code %d", e.Code),
		}
	}
	return plugin.Result{Status: plugin.StatusSuccess}
}

// shell runs one script to its end. If ctx or the limit (0: none) ends first,
// every process of the job gets SIGTERM, and SIGKILL when the grace is over;
// nothing that the script started is left then.
func (r *run) shell(ctx context.Context, script string, env []string, limit, grace time.Duration) (ended, error) {
	if ctx.Err() != nil {
		return ended{}, errCanceled
	}
	ch, err := r.s.start(script, env)
	if err != nil {
		return ended{}, err
	}
	var timeout <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		timeout = t.C
	}
	var why error
	select {
	case e := <-ch:
		return e, nil
	case <-timeout:
		why = errTimeout
	case <-ctx.Done():
		why = errCanceled
	}
	return r.stop(ch, grace), why
}

// stop ends what runs now.
func (r *run) stop(ch <-chan ended, grace time.Duration) ended {
	r.s.signal(false)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-r.s.idle():
	case <-t.C:
		r.s.signal(true)
		last := time.NewTimer(endTimeout)
		defer last.Stop()
		select {
		case <-r.s.idle():
		case <-last.C: // end will say so
			return ended{}
		}
	}
	return <-ch
}
