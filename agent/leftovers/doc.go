// Package leftovers ends the processes that a job left behind and that still use its
// workspace, or live in its control group: a runner that goes on to the next job does
// not. A process that has nothing of the workspace is never touched, nor is the
// caller, nor what the caller started itself.
//
// Only Linux says who uses a directory. Elsewhere nothing is found.
package leftovers

import "time"

// Process is one that was ended.
type Process struct {
	PID  int
	Name string // of its program, as the kernel has it
	Why  string // what of the workspace it used
}

// Cgroup is a control group of version 2 in which jobs of a slot run.
type Cgroup struct {
	Dir string
	// Runner says that the oldest process directly in it is the runner itself, which
	// stays.
	Runner bool
}

// Grace is what a process has between SIGTERM and SIGKILL.
const Grace = 2 * time.Second
