package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// socketName is where a job's supervisor listens, in the job's directory.
const socketName = "socket"

// join runs a job, or goes on with one that an earlier process began.
//
// Crash states, by what is on disk, and what the next call makes of each:
//  1. a directory, no whole record or no pid in it, nobody listens: nothing has run. Begun anew.
//  2. somebody listens: its supervisor, which runs the job or has its result, or
//     waits for the job. It is sent the job again, which counts if it is the first.
//  3. a pid, nobody listens: the supervisor was killed. Nothing is left of the job,
//     and it is a system failure.
//
// The supervisor ends with the agent, not with the process that started it.
func (a *Adapter) join(ctx context.Context, job plugin.Job, log io.Writer) (plugin.Result, error) {
	if err := a.check(&job); err != nil {
		return plugin.Result{}, fmt.Errorf("job %q: %w", job.Name, err)
	}
	for {
		at, err := a.newAttempt(job.Attempt)
		if errors.Is(err, os.ErrExist) {
			var known bool
			if at, known = a.recorded(job.Attempt); !known || at.PID != 0 || at.listens() {
				return a.rejoin(ctx, at, &job, log)
			}
			if err := a.Kill(ctx, job.Attempt); err != nil {
				return plugin.Result{}, fmt.Errorf("job %q: %w", job.Name, err)
			}
			continue
		}
		if err != nil {
			return plugin.Result{}, fmt.Errorf("job %q: %w", job.Name, err)
		}
		p, err := a.launch(at, &job)
		if err != nil {
			err = fmt.Errorf("job %q: %w", job.Name, err)
			return plugin.Result{}, errors.Join(err, a.Kill(context.WithoutCancel(ctx), job.Attempt))
		}
		return a.follow(ctx, at, p, &job, log)
	}
}

func (a *Adapter) rejoin(ctx context.Context, at *attempt, job *plugin.Job, log io.Writer) (plugin.Result, error) {
	p, err := at.dial()
	if err != nil {
		a.o.Log.Warn("a job's supervisor is gone", "attempt", job.Attempt, "err", err)
		return a.lost(ctx, at), nil
	}
	a.o.Log.Info("a job goes on", "attempt", job.Attempt, "have", job.Have)
	return a.follow(ctx, at, p, job, log)
}

// follow sends the job, and hands on what comes of it until its result.
func (a *Adapter) follow(ctx context.Context, at *attempt, p *peer, job *plugin.Job, log io.Writer) (plugin.Result, error) {
	defer p.close()
	// Word that it is to stop goes with it if it is known: nothing runs then.
	if p.send(toChild{Job: a.workOf(at, job), From: job.Have, Stop: ctx.Err() != nil}) != nil {
		return a.lost(ctx, at), nil
	}
	defer context.AfterFunc(ctx, func() {
		p.send(toChild{Stop: true}) //nolint:errcheck // it died, which is seen below
	})()
	for {
		var m fromChild
		if p.dec.Decode(&m) != nil {
			return a.lost(ctx, at), nil
		}
		switch {
		case m.Result != nil:
			fail.Point("exec.ended")
			return *m.Result, nil
		case m.Error != "":
			return plugin.Result{}, fmt.Errorf("job %q: %s", job.Name, m.Error)
		}
		if _, err := log.Write(m.Output); errors.Is(err, plugin.ErrUnavailable) {
			return plugin.Result{}, err // whoever calls next gets it again
		}
		p.send(toChild{Got: m.At + int64(len(m.Output))}) //nolint:errcheck // as above
	}
}

// workOf says to the supervisor what to do where.
func (a *Adapter) workOf(at *attempt, job *plugin.Job) *work {
	w := &work{
		Job: *job, User: a.user, Cgroup: at.Cgroup, Shell: a.o.Shell, Path: a.o.Path,
		Home: at.home, Tmp: at.tmp, SourceTimeout: a.o.SourceTimeout,
	}
	if a.o.RootMode {
		w.Switch, w.Hide = true, a.o.Hide
		w.Binds = []bind{{at.hostHome, at.home}, {at.hostTmp, at.tmp}}
		w.Binds = append(w.Binds, bind{job.View, job.Path}) // also onto itself: nosuid, nodev
	}
	return w
}

// lost ends what is left of a job whose supervisor was killed.
func (a *Adapter) lost(ctx context.Context, at *attempt) plugin.Result {
	res := plugin.Result{Status: plugin.StatusSystemFailure, Reason: errLost.Error()}
	if err := a.killRecorded(context.WithoutCancel(ctx), at); err != nil {
		a.o.Log.Error("processes of a job can't be killed", "attempt", at.id, "err", err)
		res.Reason = leftRunning + err.Error()
	}
	return res
}

// launch starts a job's supervisor and connects to it.
func (a *Adapter) launch(at *attempt, job *plugin.Job) (*peer, error) {
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
	}
	fail.Point("exec.recorded")
	if at.Cgroup != "" {
		if err := makeCgroup(at.Cgroup); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
	}
	ln, err := at.listen()
	if err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	defer ln.Close() //nolint:errcheck // our copy
	if err := a.spawn(at, ln); err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	// Until it is connected to it does nothing but wait for the agent's end.
	fail.Point("exec.launched")
	if err := at.save(); err != nil {
		return nil, err
	}
	return at.dial()
}

// spawn starts the supervisor.
func (a *Adapter) spawn(at *attempt, ln *os.File) error {
	// Not CommandContext: it ends when it is told to, whatever the context.
	cmd := &osexec.Cmd{
		Path: "/proc/self/exe", Args: []string{childName, string(at.id), at.Temp}, Dir: "/",
		Env:         []string{"GOMAXPROCS=1"},
		ExtraFiles:  []*os.File{ln, a.agent},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if a.o.RootMode {
		// Jobs of one host have one user, to whom /proc/PID/root of another job would
		// open that job's view, its HOME and its memory; so no job sees another's
		// processes. And however the supervisor dies, the kernel kills what is below it.
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	at.PID = cmd.Process.Pid
	st, _ := readStat(at.PID)
	at.Start = st.start
	go cmd.Wait() //nolint:errcheck // how it ended says nothing: the job's end is told before
	return nil
}

// The socket is reached by its directory's descriptor, as the names of sockets have to be
// short.
func (at *attempt) atSocket(do func(sa *unix.SockaddrUnix) error) error {
	dir, err := os.Open(at.dir)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // a directory
	return do(&unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName)})
}

func newSocket() (fd int, f *os.File, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, err
	}
	return fd, os.NewFile(uintptr(fd), socketName), nil
}

// listen makes the socket.
func (at *attempt) listen() (*os.File, error) {
	fd, f, err := newSocket()
	if err != nil {
		return nil, err
	}
	err = at.atSocket(func(sa *unix.SockaddrUnix) error { return unix.Bind(fd, sa) })
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// dial connects to the supervisor. It does not wait for it to accept.
func (at *attempt) dial() (*peer, error) {
	fd, f, err := newSocket()
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // FileConn has its own copy
	if err := at.atSocket(func(sa *unix.SockaddrUnix) error { return unix.Connect(fd, sa) }); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return newPeer(c), nil
}

func (at *attempt) listens() bool {
	p, err := at.dial()
	if err != nil {
		return false
	}
	p.close()
	return true
}

// bye has the supervisor kill everything and end, and reports whether it did.
func (at *attempt) bye(ctx context.Context) bool {
	p, err := at.dial()
	if err != nil {
		return false
	}
	defer p.close()
	defer time.AfterFunc(endTimeout, p.close).Stop()
	defer context.AfterFunc(ctx, p.close)()
	if p.send(toChild{Bye: true}) != nil {
		return false
	}
	for {
		var m fromChild
		if p.dec.Decode(&m) != nil {
			return false
		}
		if m.Gone {
			return true
		}
	}
}

// recorded reads what is known of an attempt, and reports whether that is all.
func (a *Adapter) recorded(id snapshot.ID) (*attempt, bool) {
	at := a.attempt(id)
	err := at.load()
	return at, err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, errTorn)
}
