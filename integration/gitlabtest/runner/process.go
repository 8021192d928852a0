package runner

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Process is a runner in a process of its own, which can be killed.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// Start starts a runner process that ends with t at the latest. wrap, if any, is a
// command that is given the runner's command line, such as "unshare -m --". The test
// binary calls Main in TestMain. Its jobs are in process groups of their own and
// live on when it is killed, as with a real runner.
func Start(t testing.TB, c Config, wrap ...string) *Process {
	t.Helper()
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if c.LogFile == "" {
		c.LogFile = filepath.Join(dir, "log")
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{}, wrap...), program, "run", file)
	p := &Process{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{}), log: c.LogFile}
	// a login shell per stage must not read what the person at this machine has in theirs
	p.cmd.Env = append(os.Environ(), programEnv+"=1", "HOME="+dir)
	p.cmd.Dir = dir
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // a killed one is no error
		close(p.done)
	}()
	t.Cleanup(p.Kill)
	return p
}

// Kill ends it at once and waits for that.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Signal sends SIGTERM (jobs are aborted), SIGQUIT (jobs are finished) or another signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits until it has ended, for d at most, and says whether it has.
func (p *Process) Wait(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(d):
		return false
	}
}

// Log is what it has logged so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
