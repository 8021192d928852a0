package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/plugin"
)

// rootModeReady reports whether root mode can be had.
func rootModeReady() error {
	if os.Geteuid() != 0 {
		return errors.New("root mode needs root")
	}
	return nil
}

// growPipe lets a job write on while its log is being stored.
func growPipe(w *os.File) {
	if c, err := w.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) }) //nolint:errcheck // smaller is fine
	}
}

// supervised is a session below a supervisor.
type supervised struct {
	at     *attempt
	cmd    *osexec.Cmd
	conn   *os.File
	exited chan struct{} // closed when the supervisor is gone
	answer chan fromChild

	// mu guards what the reader shares with the session's user.
	mu    sync.Mutex
	ended chan ended    // of the shell that runs
	quiet chan struct{} // closed when idle; a new one at each start
}

// open starts a supervisor and makes the job's place.
func (a *Adapter) open(ctx context.Context, at *attempt, job *plugin.Job, out *os.File) (session, error) {
	if a.o.RootMode {
		for _, d := range []string{job.Path, at.home, at.tmp} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return nil, err
			}
		}
	}
	if a.cgroups != "" {
		at.Cgroup = filepath.Join(a.cgroups, cgroupPrefix+string(at.id))
		// Written down before it is made, or a crash between the two would leave it.
		if err := at.save(); err != nil {
			return nil, err
		}
		fail.Point("exec.recorded")
		if err := makeCgroup(at.Cgroup); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
	}
	s := &supervised{at: at, exited: make(chan struct{}), answer: make(chan fromChild, 1)}
	err := s.launch(job, out)
	if err == nil {
		err = s.prepare(job)
	}
	if err != nil {
		return nil, errors.Join(err, s.end(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// launch starts the supervisor. Crash states: until its record is written it has
// started nothing; it ends itself when our end of the socket is gone, with all
// that it started.
func (s *supervised) launch(job *plugin.Job, out *os.File) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(fds[1]), "supervisor")
	defer theirs.Close()                                   //nolint:errcheck // our copy
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that Close ends a Read
		return errors.Join(err, unix.Close(fds[0]))
	}
	s.conn = os.NewFile(uintptr(fds[0]), "supervisor")
	// Not CommandContext: it ends when the socket does, whatever the context.
	s.cmd = &osexec.Cmd{
		Path: "/proc/self/exe", Args: []string{childName, string(job.Attempt)}, Dir: "/",
		Env:    []string{"GOMAXPROCS=1"},
		Stdout: out, Stderr: out, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if s.at.a.o.RootMode {
		// Jobs of one host have one user, to whom /proc/PID/root of another job would
		// open that job's view, its HOME and its memory; so no job sees another's
		// processes. And however the supervisor dies, the kernel kills what is below it.
		s.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC
	}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return fmt.Errorf("supervisor: %w", err)
	}
	go s.read()
	st, _ := readStat(s.cmd.Process.Pid)
	s.at.PID, s.at.Start = s.cmd.Process.Pid, st.start
	fail.Point("exec.launched")
	return s.at.save()
}

// prepare has the supervisor make the job's place.
func (s *supervised) prepare(job *plugin.Job) error {
	a := s.at.a
	m := setup{Cgroup: s.at.Cgroup, Shell: a.o.Shell, Dir: job.Path}
	if a.o.RootMode {
		m.User = &a.user
		m.Hide = a.o.Hide
		m.Binds = []bind{{s.at.hostHome, s.at.home}, {s.at.hostTmp, s.at.tmp}}
		m.Binds = append(m.Binds, bind{job.View, job.Path}) // also onto itself: nosuid, nodev
	}
	got, err := s.ask(toChild{Setup: &m})
	if err != nil {
		return err
	}
	if !got.Ready {
		return errors.New(got.Error)
	}
	return nil
}

// read hands on what the supervisor says until it is gone.
func (s *supervised) read() {
	dec := json.NewDecoder(s.conn)
	for {
		var m fromChild
		if dec.Decode(&m) != nil {
			break
		}
		s.mu.Lock()
		switch {
		case m.Ended != nil && s.ended != nil:
			s.ended <- *m.Ended
			close(s.ended)
			s.ended = nil
		case m.Idle && s.quiet != nil && s.ended == nil:
			close(s.quiet)
			s.quiet = nil
		case m.Ready || m.Started != 0 || m.Error != "":
			select {
			case s.answer <- m:
			default: // nobody asked
			}
		}
		s.mu.Unlock()
	}
	s.cmd.Wait() //nolint:errcheck // how it ended says nothing: the job's end was told before
	s.mu.Lock()
	if s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
	if s.quiet != nil {
		close(s.quiet)
		s.quiet = nil
	}
	s.mu.Unlock()
	close(s.exited)
}

// ask sends a message and waits for the answer.
func (s *supervised) ask(m toChild) (fromChild, error) {
	if err := json.NewEncoder(s.conn).Encode(m); err != nil {
		return fromChild{}, errLost
	}
	select {
	case got := <-s.answer:
		return got, nil
	case <-s.exited:
		return fromChild{}, errLost
	}
}

func (s *supervised) start(script string, env []string) (<-chan ended, error) {
	m := start{Script: []byte(script)}
	for _, e := range env {
		m.Env = append(m.Env, []byte(e))
	}
	ch := make(chan ended, 1)
	s.mu.Lock()
	s.ended, s.quiet = ch, make(chan struct{})
	s.mu.Unlock()
	got, err := s.ask(toChild{Start: &m})
	if err != nil {
		return nil, err
	}
	if got.Error != "" {
		return nil, errors.New(got.Error)
	}
	return ch, nil
}

func (s *supervised) signal(kill bool) {
	sig := int(syscall.SIGTERM)
	if kill {
		sig = int(syscall.SIGKILL)
		if s.at.Cgroup != "" {
			os.WriteFile(filepath.Join(s.at.Cgroup, "cgroup.kill"), []byte("1"), 0) //nolint:errcheck // the supervisor kills too
		}
	}
	json.NewEncoder(s.conn).Encode(toChild{Signal: sig}) //nolint:errcheck // it died, and its end is told otherwise
}

func (s *supervised) idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return s.quiet
}

// end kills the job: its cgroup in one go, then whatever the supervisor has
// adopted. Only a supervisor that was killed itself leaves work: what was below
// it is somebody else's child by now and known by its mark alone.
func (s *supervised) end(ctx context.Context) error {
	var errs []error
	if s.at.Cgroup != "" {
		errs = append(errs, endCgroup(s.at.Cgroup, endTimeout))
	}
	if s.conn != nil {
		syscallShutdown(s.conn)
		defer s.conn.Close() //nolint:errcheck // a socket
	}
	if s.cmd == nil {
		return errors.Join(errs...)
	}
	t := time.NewTimer(endTimeout)
	defer t.Stop()
	select {
	case <-s.exited:
	case <-t.C:
		return errors.Join(append(errs, fmt.Errorf("the supervisor (pid %d) still waits for processes", s.cmd.Process.Pid))...)
	}
	if st := s.cmd.ProcessState; st != nil && !st.Success() && s.at.Cgroup == "" {
		errs = append(errs, killMarked(ctx, s.at.id))
	}
	return errors.Join(errs...)
}

// syscallShutdown tells the supervisor that nothing more comes, and leaves our
// end open for what it still says.
func syscallShutdown(f *os.File) {
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) }) //nolint:errcheck // gone already
	}
}
