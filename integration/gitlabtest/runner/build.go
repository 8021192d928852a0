package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// build is a job on its way through this runner.
type build struct {
	r       *Runner
	c       *Config
	cl      *client
	job     *Job
	started time.Time

	id, projectID int // CI_CONCURRENT_ID, CI_CONCURRENT_PROJECT_ID

	vars             Variables
	root, dir, cache string
	trace            *trace
	out              io.Writer // into trace

	stopAll  context.CancelCauseFunc // of the job
	stopStep context.CancelCauseFunc // of its script alone
	early    atomic.Pointer[error]   // an interrupt before there was anything to stop
}

// Why a job stops.
var (
	errCanceled    = errors.New("canceled")
	errAborted     = errors.New("aborted: canceled by GitLab")
	errInterrupted = errors.New("aborted: terminated")
	errTimeout     = errors.New("execution took too long")
)

// buildError is a failure for a reason.
type buildError struct {
	err    error
	reason string
	exit   int
}

func (e *buildError) Error() string { return e.err.Error() }
func (e *buildError) Unwrap() error { return e.err }

func configError(format string, args ...any) error {
	return &buildError{err: fmt.Errorf(format, args...), reason: "runner_configuration_error"}
}

func systemError(err error) error {
	return &buildError{err: err, reason: "runner_system_failure"}
}

// numberLocked takes the lowest free numbers among the running jobs of the token.
func (b *build) numberLocked(others []*build) {
	taken := func(f func(*build) int, same func(*build) bool) int {
		n := 0
		for slices.ContainsFunc(others, func(o *build) bool { return same(o) && f(o) == n }) {
			n++
		}
		return n
	}
	b.id = taken(func(o *build) int { return o.id }, func(*build) bool { return true })
	b.projectID = taken(func(o *build) int { return o.projectID }, func(o *build) bool {
		return o.job.JobInfo.ProjectID == b.job.JobInfo.ProjectID
	})
}

func (b *build) interrupt() {
	b.early.Store(&errInterrupted)
	if b.stopAll != nil {
		b.stopAll(errInterrupted)
	}
}

// run runs the job and reports it. ctx is the runner's own end.
func (b *build) run(ctx context.Context) {
	if !b.c.broken(CallSix) && !b.announce(ctx) {
		return
	}
	all, stopAll := context.WithCancelCause(ctx)
	defer stopAll(nil)
	all, stopTimeout := context.WithTimeoutCause(all, b.timeout(), errTimeout)
	defer stopTimeout()
	step, stopStep := context.WithCancelCause(all)
	defer stopStep(nil)
	b.r.mu.Lock()
	b.stopAll, b.stopStep = stopAll, stopStep
	b.r.mu.Unlock()
	if why := b.early.Load(); why != nil {
		stopAll(*why)
	}
	b.trace = newTrace(b.cl, b.job)
	b.out = b.trace
	var lines *stamper
	if b.stamped() {
		lines = &stamper{w: b.trace}
		b.out = lines
	}
	b.trace.cancel = func() {
		if b.c.broken(CancelGraces) {
			stopAll(errCanceled)
		}
		stopStep(errCanceled)
	}
	b.trace.abort = func() { stopAll(errAborted) }
	go b.trace.watch(ctx)
	r, finish := b.work(all, step)
	if lines != nil {
		lines.end()
	}
	if b.c.broken(CleanupFirst) {
		defer finish()
	} else {
		finish()
	}
	if errors.Is(context.Cause(all), errAborted) && b.c.broken(AbortFinal) {
		close(b.trace.finished)
		return
	}
	if err := b.trace.finish(ctx, r); err != nil {
		b.r.logf("job %d: final report: %v", b.job.ID, err)
	}
}

// announce says that the job begins and reports whether it is to.
func (b *build) announce(ctx context.Context) bool {
	a := b.cl.update(ctx, b.job, report{State: "running"})
	switch {
	case a.outcome == abort: // 1.0: dropped without a word
		return false
	case a.canceled && b.c.broken(CancelingSaid):
		return false
	case a.canceled:
		b.early.Store(&errCanceled)
	}
	return true
}

// timeout is how long the job may take.
func (b *build) timeout() time.Duration {
	switch {
	case b.c.broken(JobTimeout):
		return 1000 * time.Hour
	case b.job.RunnerInfo.Timeout <= 0:
		return 2 * time.Hour
	}
	return time.Duration(b.job.RunnerInfo.Timeout) * time.Second
}

// stamped says whether lines get their times: by the entry's flags, else the job's.
func (b *build) stamped() bool {
	if on, ok := b.cl.e.FeatureFlags["FF_TIMESTAMPS"]; ok {
		return on
	}
	return b.job.Variables.Bool("FF_TIMESTAMPS")
}

// work does all of the job but its report. cleanup ends the executor.
func (b *build) work(all, step context.Context) (r report, cleanup func()) {
	fmt.Fprintf(b.out, "\x1b[0KRunning with gitlab-runner 19.4.0 (d79f3e7b)\x1b[0;m\n\x1b[0K  on %s %s, system ID: %s\x1b[0;m\n", b.cl.e.Name, shortToken(b.cl.e.Token), b.c.SystemID)
	cleanup = func() {}
	x, err := b.executor()
	if err == nil {
		if err = x.prepare(all); err == nil {
			cleanup = x.cleanup
			err = b.stages(all, step, x)
		} else {
			x.cleanup()
		}
	}
	for _, ctx := range []context.Context{all, step} {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
			break
		}
	}
	return b.verdict(err), cleanup
}

// verdict is the report for how the job went. A reason that the server doesn't know is
// mapped.
func (b *build) verdict(err error) report {
	if err == nil {
		fmt.Fprintf(b.out, "\x1b[32;1mJob succeeded\x1b[0;m\n")
		return report{State: "success"}
	}
	r := report{State: "failed", FailureReason: "runner_system_failure"}
	var be *buildError
	switch {
	case errors.Is(err, errTimeout):
		r.FailureReason = "job_execution_timeout"
	case errors.Is(err, errInterrupted):
		r.FailureReason = "runner_interrupted"
	case errors.Is(err, errCanceled), errors.Is(err, errAborted):
		r.FailureReason = "job_canceled"
	case errors.As(err, &be):
		r.FailureReason, r.ExitCode = be.reason, be.exit
	}
	kind := "failed"
	if r.FailureReason == "runner_system_failure" {
		kind = "failed (system failure)"
	}
	fmt.Fprintf(b.out, "\x1b[31;1mERROR: Job %s: %v\x1b[0;m\n", kind, err)
	switch {
	case r.FailureReason == "runner_configuration_error":
		r.FailureReason = "script_failure"
	case !slices.Contains(b.job.Features.FailureReasons, r.FailureReason) && r.FailureReason != "":
		r.FailureReason = "unknown_failure"
	}
	return r
}

func shortToken(token string) string {
	for _, prefix := range []string{"glrt-", "glrtr-"} {
		if len(token) > len(prefix) && token[:len(prefix)] == prefix {
			token = token[len(prefix):]
			break
		}
	}
	return token[:min(9, len(token))]
}
