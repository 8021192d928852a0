package exec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/plugin"
)

// accept serves whoever connects.
func (s *supervisor) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			time.Sleep(50 * time.Millisecond) // out of descriptors, at the worst
			continue
		}
		go s.serve(newPeer(c))
	}
}

// serve does what one peer asks for. What it sends of the job counts if it is the first.
func (s *supervisor) serve(p *peer) {
	defer p.close()
	for {
		var m toChild
		if p.dec.Decode(&m) != nil {
			s.out.leave(p)
			return
		}
		switch {
		case m.Bye:
			s.byes <- p
			<-s.lost // or the end of this process
		case m.Job != nil:
			if m.Stop {
				s.stop()
			}
			s.begin.Do(func() { go s.run(m.Job) })
			go s.out.feed(p, m.From)
		case m.Stop:
			s.stop()
		default:
			s.out.drop(m.Got)
		}
	}
}

// run runs the job to its end.
func (s *supervisor) run(w *work) {
	var err error
	s.do(func() { err = s.prepare(w) })
	if err != nil {
		s.out.finish(fromChild{Error: err.Error()})
		return
	}
	a := &Adapter{
		o:    Options{Shell: w.Shell, Path: w.Path, SourceTimeout: w.SourceTimeout, Log: hclog.NewNullLogger()},
		user: w.User,
	}
	at := &attempt{a: a, id: w.Job.Attempt, home: w.Home, tmp: w.Tmp, hostHome: w.Home, hostTmp: w.Tmp}
	r := &run{a: a, job: &w.Job, at: at, s: s}
	res := r.stages(s.ctx)
	if err := s.end(context.WithoutCancel(s.ctx)); err != nil {
		res.Status, res.Reason = plugin.StatusSystemFailure, leftRunning+err.Error()
	}
	s.out.drain()
	s.out.finish(fromChild{Result: &res})
}

func (s *supervisor) start(script string, env []string) (<-chan ended, error) {
	ch := make(chan ended, 1)
	var err error
	s.do(func() { // which reaps, too: no end comes before we know the pid
		var pid int
		if pid, err = s.fork(script, env); err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.shell, s.ended, s.quiet = pid, ch, make(chan struct{})
		}
	})
	return ch, err
}

// hasEnded is told of each process that was waited for.
func (s *supervisor) hasEnded(pid int, ws syscall.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil || pid != s.shell {
		return
	}
	e := ended{Code: ws.ExitStatus()}
	if ws.Signaled() {
		e.Code, e.Signal = 128+int(ws.Signal()), unix.SignalName(ws.Signal())
	}
	s.ended <- e
	s.shell, s.ended = 0, nil
}

// isQuiet is told when there is no process below us.
func (s *supervisor) isQuiet() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet != nil && s.ended == nil {
		close(s.quiet)
		s.quiet = nil
	}
}

func (s *supervisor) idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return s.quiet
}

// signal waits for nothing: what can't be killed must not keep the job's goroutine.
func (s *supervisor) signal(kill bool) {
	if kill {
		s.killCgroup()
		go func() { s.calls <- s.killAll }()
		return
	}
	go func() {
		s.calls <- func() {
			for _, pid := range descendants(os.Getpid()) {
				syscall.Kill(pid, syscall.SIGTERM) //nolint:errcheck // gone already
			}
		}
	}()
}

// end kills the job: its cgroup in one go, then whatever we have adopted.
func (s *supervisor) end(context.Context) error {
	done := make(chan error, 1)
	go func() { s.calls <- func() { done <- s.clear() } }()
	t := time.NewTimer(endTimeout)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return errors.New("processes survive being killed")
	}
}

// rootModeReady reports whether root mode can be had.
func rootModeReady() error {
	if os.Geteuid() != 0 {
		return errors.New("a mount namespace and a user of its own for each job (root mode) need root: start the agent as root")
	}
	return nil
}

// growPipe lets a job write on while its log is being stored.
func growPipe(w *os.File) {
	if c, err := w.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) }) //nolint:errcheck // smaller is fine
	}
}

// lifeline is what can be read from once a process has ended. Where there are no
// descriptors of processes it is our own end that is seen.
func lifeline(pid int) (end, keep *os.File, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		return os.NewFile(uintptr(fd), "agent"), nil, nil
	}
	end, keep, err = os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("lifeline: %w", err)
	}
	return end, keep, nil
}
