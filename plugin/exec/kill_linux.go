package exec

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
)

// endAttempt ends what this or another process of ours started in this boot. A
// supervisor that says that nothing is left has looked everywhere but at processes
// that left it and the cgroup, which none can.
func (a *Adapter) endAttempt(ctx context.Context, at *attempt) error {
	if !at.bye(ctx) {
		return a.killRecorded(ctx, at)
	}
	if at.PID > 1 {
		return endProcess(ctx, at.PID, at.Start) // and the namespaces, which hold the view
	}
	return nil
}

// killRecorded ends an attempt whose supervisor does not answer.
func (a *Adapter) killRecorded(ctx context.Context, at *attempt) error {
	var errs []error
	if at.Cgroup == "" && a.cgroups != "" { // the record was half-written
		at.Cgroup = filepath.Join(a.cgroups, cgroupPrefix+string(at.id))
	}
	if at.Cgroup != "" && isOurCgroup(at.Cgroup, string(at.id)) {
		errs = append(errs, endCgroup(at.Cgroup, endTimeout))
	}
	if at.PID > 1 {
		errs = append(errs, endProcess(ctx, at.PID, at.Start))
	}
	return errors.Join(append(errs, killMarked(ctx, at.id))...)
}

// endProcess waits for a process to end, and helps it with what is below it.
func endProcess(ctx context.Context, pid int, start uint64) error {
	begin := time.Millisecond
	for waited := time.Duration(0); waited < endTimeout; waited += begin {
		if !alive(pid, start) {
			return nil
		}
		if waited > time.Second {
			for _, d := range append(descendants(pid), pid) {
				syscall.Kill(d, syscall.SIGKILL) //nolint:errcheck // gone already
			}
		}
		if err := pause.For(ctx, begin); err != nil {
			return err
		}
		begin = min(2*begin, 100*time.Millisecond)
	}
	return fmt.Errorf("process %d does not end", pid)
}

// killMarked kills processes by the mark in their environment until there is none.
func killMarked(ctx context.Context, id snapshot.ID) error {
	wait := time.Millisecond
	for waited := time.Duration(0); waited < endTimeout; waited += wait {
		left := marked(string(id))
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // gone already
		}
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
	return fmt.Errorf("processes of attempt %s survive being killed", id)
}
