package leftovers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rounds is how often it is looked again for what was born meanwhile.
const rounds = 8

// End ends all processes that use what is at or below view, in whatever mount
// namespace, by a working or root directory, a program, an open file, a mapping or a
// bound socket. An error says that some survive, or that the kernel does not tell.
//
// A job can hand a file of its own to any service that takes descriptors, such as the
// message bus: services of the system that are not uid's, whose the jobs are, stay.
func End(ctx context.Context, view string, uid int) ([]Process, error) {
	return endAll(ctx, func() ([]found, error) {
		s, err := newScan(view)
		if err != nil {
			return nil, err
		}
		s.uid = uid
		return s.all()
	})
}

// EndCgroup ends all processes in a control group and below it. A group that there is
// not has none.
func EndCgroup(ctx context.Context, c Cgroup) ([]Process, error) {
	return endAll(ctx, func() ([]found, error) { return members(c) })
}

// found is a process to be ended. still reports whether pid is one, also now.
type found struct {
	pid   int
	why   string
	still func() bool
}

// endAll ends what look finds, until it finds nothing.
func endAll(ctx context.Context, look func() ([]found, error)) ([]Process, error) {
	var ended []Process
	for round := range rounds {
		list, err := look()
		if err != nil || len(list) == 0 {
			return ended, err
		}
		if err := ctx.Err(); err != nil {
			return ended, err
		}
		grace := Grace
		if round > 0 { // whoever starts others while it is asked to go
			grace = 0
		}
		ended = append(ended, endOnce(ctx, list, grace)...)
	}
	return ended, errors.New("processes that the job left come again and again")
}

// endOnce ends one list, and waits until it is gone.
func endOnce(ctx context.Context, list []found, grace time.Duration) []Process {
	var fds []int
	var out []Process
	defer func() {
		for _, fd := range fds {
			unix.Close(fd) //nolint:errcheck // a reference
		}
	}()
	for _, f := range list {
		fd, err := unix.PidfdOpen(f.pid, 0)
		if err != nil {
			continue // gone
		}
		if !f.still() { // its number may be another's by now
			unix.Close(fd) //nolint:errcheck // a reference
			continue
		}
		fds = append(fds, fd)
		out = append(out, Process{PID: f.pid, Name: name(f.pid), Why: f.why})
	}
	if grace > 0 {
		signal(fds, unix.SIGTERM)
		if waitGone(ctx, fds, grace) {
			return out
		}
	}
	signal(fds, unix.SIGKILL)
	waitGone(ctx, fds, Grace)
	return out
}

func signal(fds []int, sig unix.Signal) {
	for _, fd := range fds {
		unix.PidfdSendSignal(fd, sig, nil, 0) //nolint:errcheck // gone, or not ours to end: the next look tells
	}
}

// waitGone waits for the end of processes and reports whether all have ended.
func waitGone(ctx context.Context, fds []int, limit time.Duration) bool {
	left := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		left[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	const step = 20 * time.Millisecond
	for waited := time.Duration(0); len(left) > 0; waited += step {
		if waited >= limit || ctx.Err() != nil {
			return false
		}
		n, err := unix.Poll(left, int(step.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n > 0 {
			left = slices.DeleteFunc(left, func(p unix.PollFd) bool { return p.Revents != 0 })
			waited -= step
		}
	}
	return true
}

func name(pid int) string {
	b, err := os.ReadFile(procPath(pid, "comm"))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}

func procPath(pid int, what string) string { return "/proc/" + strconv.Itoa(pid) + "/" + what }

// members lists the processes of a control group.
func members(c Cgroup) ([]found, error) {
	var out []found
	self := os.Getpid()
	err := filepath.WalkDir(c.Dir, func(dir string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		pids, err := procsOf(dir)
		if err != nil {
			return err
		}
		if c.Runner && dir == c.Dir {
			pids = withoutOldest(pids)
		}
		for _, pid := range pids {
			if pid != self && pid != 1 {
				out = append(out, found{pid: pid, why: "in " + filepath.Base(c.Dir), still: func() bool {
					now, _ := procsOf(dir) //nolint:errcheck // then it is in none
					return slices.Contains(now, pid)
				}})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("processes of %s: %w", c.Dir, err)
	}
	return out, nil
}

// procsOf lists the living processes directly in a control group.
func procsOf(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 { // 0: of a namespace that we don't see
			if _, state, ok := started(pid); ok && state != 'Z' {
				out = append(out, pid)
			}
		}
	}
	return out, nil
}

// withoutOldest leaves out the process that was started first.
func withoutOldest(pids []int) []int {
	oldest, at := -1, uint64(0)
	for i, pid := range pids {
		if when, _, ok := started(pid); ok && (oldest < 0 || when < at) {
			oldest, at = i, when
		}
	}
	if oldest < 0 {
		return pids
	}
	return slices.Delete(slices.Clone(pids), oldest, oldest+1)
}

// started reads when a process began, in ticks since the machine did, and its state.
func started(pid int) (when uint64, state byte, ok bool) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return 0, 0, false
	}
	// The name in parentheses may hold anything; what we need stands behind it.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return 0, 0, false
	}
	when, err = strconv.ParseUint(f[19], 10, 64)
	return when, f[0][0], err == nil
}

// parentOf is a process's parent, 0 if it is not known.
func parentOf(pid int) int {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 2 {
		return 0
	}
	n, err := strconv.Atoi(f[1])
	if err != nil {
		return 0
	}
	return n
}
