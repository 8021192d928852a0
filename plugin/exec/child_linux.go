package exec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
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
	unix.CloseOnExec(fdListen)
	unix.CloseOnExec(fdAgent)
	f := os.NewFile(fdListen, "listener")
	ln, err := net.FileListener(f)
	if err == nil {
		err = supervise(ln, os.Args[len(os.Args)-1])
	}
	if err != nil {
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

// supervisor is the process at the root of a job. It implements session for the job
// that it runs.
type supervisor struct {
	// calls are done by the thread that forks. byes are those who want our end, lost is
	// closed when the agent has gone.
	calls chan func()
	byes  chan *peer
	lost  chan struct{}

	work  *work
	begin sync.Once // of the job
	ctx   context.Context
	stop  context.CancelFunc
	out   *spool
	// cgroup is a descriptor of the job's cgroup, -1 for none.
	cgroup int

	// mu guards what the forking thread shares with the job's goroutine.
	mu    sync.Mutex
	shell int           // the pid of the shell that runs now, 0 for none
	ended chan ended    // its end
	quiet chan struct{} // closed when idle; a new one at each start
}

// supervise runs the job that it is given, and leaves no process behind; of a job whose
// agent has gone not even temp, as there may never be another agent. "" is none.
func supervise(ln net.Listener, temp string) error {
	// What forks must be the thread that gave up new privileges, so all of that is
	// done by this one.
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

	s := &supervisor{calls: make(chan func()), byes: make(chan *peer), lost: make(chan struct{}), cgroup: -1}
	s.ctx, s.stop = context.WithCancel(context.Background()) //nolint:forbidigo // this process has no other
	var err error
	if s.out, err = newSpool(); err != nil {
		return err
	}
	go s.watch()
	go s.accept(ln)
	for {
		select {
		case do := <-s.calls:
			do()
		case <-chld:
			s.reap()
		case p := <-s.byes:
			err := s.clear()
			p.send(fromChild{Gone: err == nil}) //nolint:errcheck // it hears of our end
			return err
		case <-s.lost:
			if err := s.clear(); err != nil || temp == "" {
				return err
			}
			return removeTree(temp)
		}
	}
}

// watch waits for the agent's end: a process descriptor, or the end of a pipe, can be
// read from then. Without either there is no agent.
func (s *supervisor) watch() {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: fdAgent, Events: unix.POLLIN}}, -1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			close(s.lost)
			return
		}
	}
}

// do has the forking thread do something, and waits for it.
func (s *supervisor) do(fn func()) {
	done := make(chan struct{})
	s.calls <- func() {
		defer close(done)
		fn()
	}
	<-done
}

// prepare makes the place where the shells run.
func (s *supervisor) prepare(w *work) error {
	s.work = w
	if len(w.Binds) > 0 {
		if err := makeNamespace(w.Binds, w.Hide); err != nil {
			return err
		}
	}
	if w.Cgroup != "" {
		fd, err := unix.Open(w.Cgroup, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", w.Cgroup, err)
		}
		s.cgroup = fd
	}
	return nil
}

// fork starts one shell in a session of its own.
func (s *supervisor) fork(script string, env []string) (int, error) {
	fd, err := unix.MemfdCreate("script", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("script: %w", err)
	}
	f := os.NewFile(uintptr(fd), "script")
	defer f.Close() //nolint:errcheck // in memory
	if _, err := f.WriteString(script); err != nil {
		return 0, fmt.Errorf("script: %w", err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		return 0, fmt.Errorf("script: %w", err)
	}
	out := s.out.w.Fd()
	attr := &syscall.ProcAttr{
		Dir: s.work.Job.Path, Env: env, Files: []uintptr{0, out, out, f.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	if u := s.work.User; s.work.Switch {
		attr.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	if s.cgroup >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, s.cgroup
	}
	pid, err := syscall.ForkExec(s.work.Shell, shellArgs, attr)
	if err != nil {
		return 0, fmt.Errorf("%s in %s: %w", s.work.Shell, attr.Dir, err)
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
			s.isQuiet()
			return true
		case err != nil || pid <= 0:
			return false
		}
		if ws.Exited() || ws.Signaled() {
			s.hasEnded(pid, ws)
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

// clear ends everything, what escaped from us into the cgroup too.
func (s *supervisor) clear() error {
	s.killCgroup()
	s.killAll()
	if s.work != nil && s.work.Cgroup != "" {
		return endCgroup(s.work.Cgroup, endTimeout)
	}
	return nil
}

func (s *supervisor) killCgroup() {
	if w := s.work; w != nil && w.Cgroup != "" {
		os.WriteFile(filepath.Join(w.Cgroup, "cgroup.kill"), []byte("1"), 0) //nolint:errcheck // killAll kills too
	}
}
