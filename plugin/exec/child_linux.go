package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childSeen is set once MaybeChild was called. Without it a supervisor would run
// the program's own main.
var childSeen atomic.Bool

// MaybeChild must be the first call of main (of TestMain in tests that run jobs).
// In a process that the adapter started as a job's supervisor it does that work
// and exits; in any other it returns at once.
func MaybeChild() {
	childSeen.Store(true)
	if len(os.Args) == 0 || os.Args[0] != childName {
		return
	}
	unix.CloseOnExec(3)
	if err := supervise(os.NewFile(3, "adapter")); err != nil {
		fmt.Fprintf(os.Stderr, "roost: the job's supervisor: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// childReady reports whether supervisors can be started.
func childReady() error {
	if !childSeen.Load() {
		return errors.New("exec adapter: MaybeChild was not called by main")
	}
	return nil
}

// supervisor is the process at the root of a job.
type supervisor struct {
	setup setup
	out   *json.Encoder
	// cgroup is a descriptor of the job's cgroup, -1 for none.
	cgroup int
	// shell is the pid of the shell that runs now, 0 for none.
	shell int
}

// supervise serves the adapter until it hangs up, and leaves no process behind.
func supervise(conn *os.File) error {
	// What forks must be the thread that gave up new privileges, so everything is
	// done by this one; others only read.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("subreaper: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	syscall.Umask(0o022)
	// Taken and dropped rather than ignored: what is ignored stays so in the shells.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, syscall.SIGCHLD)

	in := make(chan toChild)
	go func() {
		defer close(in)
		dec := json.NewDecoder(conn)
		for {
			var m toChild
			if dec.Decode(&m) != nil {
				return
			}
			in <- m
		}
	}()
	s := &supervisor{out: json.NewEncoder(conn), cgroup: -1}
	for {
		select {
		case m, ok := <-in:
			if !ok {
				s.killAll()
				if s.setup.Cgroup != "" { // of an adapter that died, and may never come back
					return endCgroup(s.setup.Cgroup, endTimeout)
				}
				return nil
			}
			s.handle(m)
		case <-chld:
			s.reap()
		}
	}
}

// tell sends a message. An adapter that is gone is noticed by the reader.
func (s *supervisor) tell(m fromChild) { s.out.Encode(m) } //nolint:errcheck // see above

// handle does what a message asks for.
func (s *supervisor) handle(m toChild) {
	switch {
	case m.Setup != nil:
		s.setup = *m.Setup
		if err := s.prepare(); err != nil {
			s.tell(fromChild{Error: err.Error()})
			return
		}
		s.tell(fromChild{Ready: true})
	case m.Start != nil:
		pid, err := s.start(m.Start)
		if err != nil {
			s.tell(fromChild{Error: err.Error()})
			return
		}
		s.shell = pid
		s.tell(fromChild{Started: pid})
	case m.Signal == int(syscall.SIGKILL):
		s.killAll()
	case m.Signal != 0:
		for _, pid := range descendants(os.Getpid()) {
			syscall.Kill(pid, syscall.Signal(m.Signal)) //nolint:errcheck // gone already
		}
	}
}

// prepare makes the place where the shells run.
func (s *supervisor) prepare() error {
	if len(s.setup.Binds) > 0 {
		if err := makeNamespace(s.setup.Binds, s.setup.Hide); err != nil {
			return err
		}
	}
	if s.setup.Cgroup != "" {
		fd, err := unix.Open(s.setup.Cgroup, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", s.setup.Cgroup, err)
		}
		s.cgroup = fd
	}
	return nil
}

// start starts one shell in a session of its own.
func (s *supervisor) start(st *start) (int, error) {
	fd, err := unix.MemfdCreate("script", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("script: %w", err)
	}
	f := os.NewFile(uintptr(fd), "script")
	defer f.Close() //nolint:errcheck // in memory
	if _, err := f.Write(st.Script); err != nil {
		return 0, fmt.Errorf("script: %w", err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		return 0, fmt.Errorf("script: %w", err)
	}
	attr := &syscall.ProcAttr{
		Dir:   s.setup.Dir,
		Env:   make([]string, 0, len(st.Env)),
		Files: []uintptr{0, 1, 2, f.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	for _, e := range st.Env {
		attr.Env = append(attr.Env, string(e))
	}
	if u := s.setup.User; u != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	if s.cgroup >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, s.cgroup
	}
	pid, err := syscall.ForkExec(s.setup.Shell, shellArgs, attr)
	if err != nil {
		return 0, fmt.Errorf("%s in %s: %w", s.setup.Shell, s.setup.Dir, err)
	}
	return pid, nil
}

// reap collects whoever has ended, adopted processes too, and reports whether
// there is nobody left.
func (s *supervisor) reap() bool {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD):
			s.tell(fromChild{Idle: true})
			return true
		case err != nil || pid <= 0:
			return false
		}
		if pid == s.shell && (ws.Exited() || ws.Signaled()) {
			s.shell = 0
			e := ended{Code: ws.ExitStatus()}
			if ws.Signaled() {
				e.Code, e.Signal = 128+int(ws.Signal()), unix.SignalName(ws.Signal())
			}
			s.tell(fromChild{Ended: &e})
		}
	}
}

// killAll ends every process below us, and returns when that is done. As all that
// lose their parent become our children, there is none left when we have no child
// any more.
func (s *supervisor) killAll() {
	for wait := time.Millisecond; !s.reap(); wait = min(2*wait, 50*time.Millisecond) {
		for _, pid := range descendants(os.Getpid()) {
			syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // gone already
		}
		time.Sleep(wait)
	}
}
