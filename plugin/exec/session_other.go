//go:build !linux

package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"sync"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// MaybeChild must be the first call of main. Here there are no supervisors, and
// it does nothing.
func MaybeChild() {}

func childReady() error { return nil }

func rootModeReady() error { return errors.New("a mount namespace and a user of its own for each job (root mode) need Linux") }

func growPipe(*os.File) {}

func findCgroups(string) (string, error) { return "", errors.New("this system has none") }

// lifeline is nothing: there is no supervisor that could wait for it.
func lifeline(int) (end, keep *os.File, err error) { return nil, nil, nil }

// join runs a job. One that an earlier process began can't be found again.
func (a *Adapter) join(ctx context.Context, job plugin.Job, log io.Writer) (plugin.Result, error) {
	if err := a.check(&job); err != nil {
		return plugin.Result{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	at, err := a.newAttempt(job.Attempt)
	if errors.Is(err, os.ErrExist) {
		return plugin.Result{Status: plugin.StatusSystemFailure, Reason: errLost.Error()}, nil
	}
	if err != nil {
		return plugin.Result{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	out, err := newOutput(log)
	if err != nil {
		return plugin.Result{}, fmt.Errorf("job %q: its output: %w", job.Name, err)
	}
	defer out.close()
	s := &direct{job: &job, a: a, out: out.w}
	r := &run{a: a, job: &job, at: at, s: s}
	res := r.stages(ctx)
	if err := s.end(context.WithoutCancel(ctx)); err != nil {
		a.o.Log.Error("processes of a job can't be killed", "attempt", job.Attempt, "err", err)
		res.Status, res.Reason = plugin.StatusSystemFailure, leftRunning+err.Error()
	}
	out.drain()
	return res, nil
}

// endAttempt can't do anything: where there is no supervisor a job's processes
// are known to the agent that started them alone.
func (a *Adapter) endAttempt(context.Context, *attempt) error { return nil }

// direct is a session of process groups: every shell has one of its own, and what
// a job puts into yet another one is not found.
type direct struct {
	job *plugin.Job
	a   *Adapter
	out *os.File

	mu     sync.Mutex
	groups []*os.Process
	quiet  chan struct{}
}

func (d *direct) start(script string, env []string) (<-chan ended, error) {
	f, err := os.CreateTemp("", "roost-script-*")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // the shell has its own descriptor
	if _, err := f.WriteString(script); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	//nolint:noctx // stopped by signal, so that it has its grace
	cmd := osexec.Command(d.a.o.Shell)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = d.job.Path, env, d.out, d.out
	if err := feed(cmd, f); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	ch, quiet := make(chan ended, 1), make(chan struct{})
	d.mu.Lock()
	d.groups, d.quiet = append(d.groups, cmd.Process), quiet
	d.mu.Unlock()
	go func() {
		cmd.Wait()          //nolint:errcheck // the state says it
		os.Remove(f.Name()) //nolint:errcheck // a temporary file
		ch <- howEnded(cmd.ProcessState)
		for groupAlive(cmd.Process) {
			time.Sleep(5 * time.Millisecond)
		}
		close(quiet)
	}()
	return ch, nil
}

func (d *direct) signal(kill bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.groups {
		signalGroup(p, kill)
	}
}

func (d *direct) idle() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.quiet
}

func (d *direct) end(context.Context) error {
	d.signal(true)
	if d.quiet == nil {
		return nil
	}
	t := time.NewTimer(endTimeout)
	defer t.Stop()
	select {
	case <-d.quiet:
		return nil
	case <-t.C:
		return errors.New("its process group does not end")
	}
}
