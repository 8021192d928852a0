package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// Jobs is a plugin.Adapter whose jobs a plugin.Runner runs. A process that dies under a
// job is replaced by Keep, and the job goes on in the next one.
type Jobs struct {
	h *Host
	// patience is how long a call waits for a process when there is none.
	patience time.Duration
}

var _ plugin.Adapter = (*Jobs)(nil)

// ErrNoRunner says that a program is a plugin, but not one that runs jobs.
var ErrNoRunner = errors.New("a plugin that runs no jobs")

// defaultPatience is more than a plugin that dies again and again is left dead.
const defaultPatience = time.Minute

// NewJobs is New for a plugin that runs the agent's own jobs. Options.Agent is not used.
func NewJobs(o Options) (*Jobs, error) {
	o.Agent, o.runs = nobody{}, true
	h, err := New(o)
	if err != nil {
		return nil, err
	}
	return &Jobs{h: h, patience: defaultPatience}, nil
}

// Keep keeps the plugin running, as Host.Run does. The other methods work as long as
// it runs.
func (j *Jobs) Keep(ctx context.Context) error {
	err := j.h.Run(ctx)
	j.h.up.end(err)
	return err
}

// Name implements plugin.Adapter.
func (j *Jobs) Name() string { return j.h.o.Name }

// Run implements plugin.Adapter. Of a job whose plugin can't be started again nothing
// is known any more: it is a system failure, unless it can't have begun.
func (j *Jobs) Run(ctx context.Context, job plugin.Job, log io.Writer) (plugin.Result, error) {
	out := &counter{w: log}
	for given := false; ; given = true {
		p, err := j.process(context.WithoutCancel(ctx))
		if err != nil && !given {
			return plugin.Result{}, err
		}
		if err != nil {
			return plugin.Result{Status: plugin.StatusSystemFailure, Reason: "the plugin that ran the job can't be started again: " + err.Error()}, nil
		}
		job.Have = out.n
		res, err := p.runner.Run(ctx, job, out)
		if errors.Is(err, plugin.ErrUnavailable) {
			j.h.o.Log.Warn("the plugin died under a job, which goes on in the next one", "attempt", job.Attempt, "bytes", out.n)
			p.wait(j.patience)
			continue
		}
		if kerr := j.Kill(context.WithoutCancel(ctx), job.Attempt); kerr != nil && err == nil {
			j.h.o.Log.Error("what is left of a job can't be cleared away", "attempt", job.Attempt, "err", kerr)
			res.Status, res.Reason = plugin.StatusSystemFailure, "what is left of the job can't be cleared away: "+kerr.Error()
		}
		return res, err
	}
}

// Kill implements plugin.Adapter.
func (j *Jobs) Kill(ctx context.Context, attempt snapshot.ID) error {
	for {
		p, err := j.process(ctx)
		if err != nil {
			return err
		}
		err = p.runner.Kill(ctx, attempt)
		if !errors.Is(err, plugin.ErrUnavailable) {
			return err
		}
		p.wait(j.patience)
	}
}

// process waits for one.
func (j *Jobs) process(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, j.patience, fmt.Errorf("plugin %s: not running for %s: %w", j.h.o.Name, j.patience, plugin.ErrUnavailable))
	defer cancel()
	return j.h.up.get(ctx)
}

// counter counts what a log was given.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p)) // also what it refuses: that is lost
	return c.w.Write(p)
}

// process is one life of the plugin.
type process struct {
	runner plugin.Runner
	gone   <-chan struct{}
}

// wait waits until it is gone, so that the next process is asked and not this one again.
func (p *process) wait(most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-p.gone:
	case <-t.C:
	}
}

// upness is who runs now.
type upness struct {
	mu    sync.Mutex
	p     *process
	err   error         // there will be none any more
	again chan struct{} // closed when one of the above changes
}

// get waits for a process that has not gone.
func (u *upness) get(ctx context.Context) (*process, error) {
	for {
		u.mu.Lock()
		p, err, again := u.p, u.err, u.again
		u.mu.Unlock()
		if p != nil {
			select {
			case <-p.gone:
			default:
				return p, nil
			}
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-again:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (u *upness) set(p *process) { u.change(func() { u.p = p }) }

// end says that there will be no process any more.
func (u *upness) end(err error) {
	if err == nil {
		err = fmt.Errorf("the plugin was stopped: %w", plugin.ErrUnavailable)
	}
	u.change(func() { u.p, u.err = nil, err })
}

func (u *upness) change(edit func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	edit()
	close(u.again)
	u.again = make(chan struct{})
}

// nobody is the agent of a plugin that calls none.
type nobody struct{}

func (nobody) refuse() error {
	return fmt.Errorf("%w: this plugin is given its jobs", plugin.ErrInvalid)
}

func (n nobody) Claim(context.Context, plugin.Offer) (*plugin.Grant, error) { return nil, n.refuse() }

func (n nobody) Attach(context.Context, snapshot.ID, func(string)) (*plugin.Workspace, error) {
	return nil, n.refuse()
}

func (n nobody) Seal(context.Context, plugin.SealRequest) (*plugin.Sealed, error) {
	return nil, n.refuse()
}

func (n nobody) Discard(context.Context, plugin.DiscardRequest) error { return n.refuse() }

func (nobody) Held(context.Context) ([]plugin.Held, error) { return nil, nil }
