// Package plugin is the contract between the agent and what runs jobs. An adapter
// is given a view that is ready and runs one job in it; mounts, leases and
// sealing belong to the agent and survive the adapter's death.
//
// Adapters live in plugin/<name>. They see only this package, so that one of ours
// can be moved into a process of its own, and one of somebody else's can be
// started in the same way.
package plugin

import (
	"context"
	"io"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// Job is one attempt of a job, ready to run.
type Job struct {
	Attempt snapshot.ID
	Name    string
	// View is the host-side path of the job's tree. Path is where the job sees it,
	// the same on every host; equal to View where no namespace can be had.
	View string
	Path string
	// Source is what to check out before the script, nil for nothing.
	Source *Source
	// Before, Script and After are the job's commands, one shell line each. Before
	// and Script run in one shell that stops at the first failure; After runs in a
	// shell of its own whatever happened, for at most AfterTimeout.
	Before, Script, After []string
	// Env is all the environment that the job gets besides PATH, HOME, USER and the
	// like of its user. Nothing of the agent's own environment reaches it.
	Env map[string]string
	// Timeout is the limit for Before and Script together; 0 means none.
	Timeout      time.Duration
	AfterTimeout time.Duration
	// Grace is how long processes have between SIGTERM and SIGKILL.
	Grace time.Duration
	// Have is how many bytes of its output are known already, from an earlier Run of
	// the same attempt (see Runner). 0 the first time.
	Have int64
}

// Source is a commit of a git repository.
type Source struct {
	URL string
	// Ref is fetched when the server does not give Commit by its name.
	Ref    string
	Commit string
	// Header is one HTTP header for the fetch, "Name: value"; a secret. It is never
	// written to the work tree.
	Header string
}

// Status is how a job ended.
type Status string

// The ways a job can end. Only StatusSystemFailure may be tried again by us.
const (
	StatusSuccess       Status = "success"
	StatusFailed        Status = "failed"
	StatusTimedOut      Status = "timed-out"
	StatusCanceled      Status = "canceled"
	StatusSystemFailure Status = "system-failure"
)

// Result is what became of a job.
type Result struct {
	Status Status
	// ExitCode is what the script's shell ended with, 0 on success.
	ExitCode int
	// Reason is one line for people; empty on success.
	Reason string
	// Commit is the commit that was checked out, if any.
	Commit string
}

// Adapter runs jobs of one kind.
type Adapter interface {
	// Name is the word in configuration: "exec".
	Name() string

	// Run runs the job and writes its output to log as it comes. When it returns,
	// no process of the job is left: whatever it started has been killed. When ctx
	// ends the job is stopped (SIGTERM, grace, SIGKILL) and the result is
	// StatusCanceled. An error means that the adapter itself could not do its work;
	// nothing of the job has run then.
	Run(ctx context.Context, job Job, log io.Writer) (Result, error)

	// Kill ends whatever an earlier process of the agent left running of attempt.
	// It is called at start-up, before views are reconciled. Idempotent.
	Kill(ctx context.Context, attempt snapshot.ID) error
}
