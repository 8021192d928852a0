package wire

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"

	"github.com/hashicorp/go-plugin/runner"
)

// process is the plugin's process. go-plugin's own runner gives it the agent's standard
// input and can't promise that it dies with the agent.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser
	gone           chan struct{} // closed when it has been waited for

	mu    sync.Mutex
	os    *os.Process // nil: not started
	never bool        // killed before it was started
}

var _ runner.Runner = (*process)(nil)

func newProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, gone: make(chan struct{})}
	var err error
	if p.stdout, err = cmd.StdoutPipe(); err == nil {
		p.stderr, err = cmd.StderrPipe()
	}
	return p, err
}

// Start starts it from a thread that lives as long as it does: the kernel tells a child
// of its parent's death when the parent's thread dies.
func (p *process) Start(context.Context) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.launch()
		started <- err
		if err == nil {
			<-p.gone
		}
	}()
	return <-started
}

func (p *process) launch() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.never {
		return context.Canceled
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.os = p.cmd.Process
	return nil
}

func (p *process) Wait(context.Context) error {
	defer close(p.gone)
	return p.cmd.Wait()
}

func (p *process) Kill(context.Context) error { return p.kill() }

// kill kills it at once. One that was not started won't be.
func (p *process) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.never = true
	if p.os == nil {
		return nil
	}
	if err := p.os.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (p *process) Stdout() io.ReadCloser { return p.stdout }
func (p *process) Stderr() io.ReadCloser { return p.stderr }
func (p *process) Name() string          { return p.cmd.Args[0] }

func (p *process) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.os == nil {
		return ""
	}
	return strconv.Itoa(p.os.Pid)
}

func (p *process) Diagnose(context.Context) string { return "" }

func (p *process) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
