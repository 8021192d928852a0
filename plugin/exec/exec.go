package exec

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// Options say how jobs are run. The zero value runs them as the agent's own user
// and keeps their state below the system's directory for temporary files.
type Options struct {
	// RootMode gives each job a mount namespace, in which its view stands at
	// Job.Path, and another user. It needs root on Linux.
	RootMode bool
	// RunAs is the user of the jobs in root mode: a name, or uid:gid. "" means the
	// user behind sudo, or else nobody.
	RunAs string
	// StateDir holds what must be known to end a job after the agent was killed,
	// and in root mode the jobs' HOME and TMPDIR. It is made with mode 0700. One
	// process at a time may use it.
	StateDir string
	// RunDir is where HOME and TMPDIR of the jobs appear in root mode, the same path
	// in every slot and on every host. Default /run/roost.
	RunDir string
	// Hide are directories that jobs must not see, in root mode: the store, and the
	// other jobs' views. Each appears empty to them.
	Hide []string
	// Shell is bash; default: the first one in PATH.
	Shell string
	// Path is PATH for the jobs. Default: the absolute directories in the agent's.
	Path string
	Log  hclog.Logger
	Now  func() time.Time
}

// Adapter implements plugin.Adapter. Its methods may be called from any goroutine.
type Adapter struct {
	o Options
}

// New checks that jobs can be run here as o says. main must have called
// MaybeChild before.
func New(o Options) (*Adapter, error) {
	return nil, errors.New("exec: not there yet")
}

// Name is "exec".
func (a *Adapter) Name() string { return "exec" }

// Owner is the user that jobs run as: who must own a fresh view. It is 0, 0 where
// views belong to the agent's user anyhow.
func (a *Adapter) Owner() (uid, gid int) { return 0, 0 }

// Run implements plugin.Adapter.
func (a *Adapter) Run(ctx context.Context, job plugin.Job, log io.Writer) (plugin.Result, error) {
	return plugin.Result{}, errors.New("exec: not there yet")
}

// Kill implements plugin.Adapter.
func (a *Adapter) Kill(ctx context.Context, attempt snapshot.ID) error { return nil }
