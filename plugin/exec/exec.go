package exec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
	// other jobs' views. Each appears empty to them. One that does not exist when a
	// job starts is passed over.
	Hide []string
	// Shell is bash; default: the first one in PATH.
	Shell string
	// Path is PATH for the jobs. Default: the absolute directories in the agent's.
	Path string
	// SourceTimeout ends a checkout that takes longer. Default 30 minutes.
	SourceTimeout time.Duration
	Log           hclog.Logger

	// agent is the process that jobs end with; default: this one.
	agent    int
	noCgroup bool // tests only: leave everything to the supervisor
}

// Adapter implements plugin.Adapter. Its methods may be called from any goroutine.
type Adapter struct {
	o    Options
	user identity
	// cgroups is the directory in which each job gets a cgroup, "" where none can
	// be made.
	cgroups string
	// agent can be read from when the agent has gone; keep makes it so where that is us.
	agent, keep *os.File
}

// Bounds of what the adapter waits for.
const (
	// endTimeout is how long killed processes may take to be gone. What takes
	// longer hangs in the kernel, and its view can't be sealed.
	endTimeout = 30 * time.Second
	// drainTimeout is how long the last output may take once nothing runs.
	drainTimeout         = 5 * time.Second
	defaultGrace         = 10 * time.Second
	defaultAfterTimeout  = 5 * time.Minute
	defaultSourceTimeout = 30 * time.Minute
)

// New checks that jobs can be run here as o says. main must have called
// MaybeChild before.
func New(o Options) (*Adapter, error) {
	if err := childReady(); err != nil {
		return nil, err
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("exec adapter: %w", err)
	}
	a := &Adapter{o: o}
	if a.user, err = identify(o); err != nil {
		return nil, fmt.Errorf("exec adapter: %w", err)
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("exec adapter: %w", err)
	}
	if a.agent, a.keep, err = lifeline(cmp.Or(o.agent, os.Getpid())); err != nil {
		return nil, fmt.Errorf("exec adapter: %w", err)
	}
	if !o.noCgroup {
		a.cgroups, err = findCgroups(o.Shell)
		if err != nil {
			o.Log.Info("no cgroups for jobs, their supervisors kill them", "why", err)
		}
	}
	return a, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.RunDir == "" {
		o.RunDir = "/run/roost"
	}
	if o.SourceTimeout <= 0 {
		o.SourceTimeout = defaultSourceTimeout
	}
	if o.Path == "" {
		o.Path = absoluteOnly(os.Getenv("PATH"))
	}
	var err error
	if o.Shell == "" {
		if o.Shell, err = findShell(); err != nil {
			return o, err
		}
	}
	if o.StateDir == "" {
		o.StateDir = filepath.Join(os.TempDir(), fmt.Sprintf("roost-exec-%d", os.Geteuid()))
	}
	o.StateDir, err = filepath.Abs(o.StateDir)
	return o, err
}

// absoluteOnly drops what is not an absolute directory from a search path.
func absoluteOnly(path string) string {
	var keep []string
	for _, d := range filepath.SplitList(path) {
		if filepath.IsAbs(d) {
			keep = append(keep, d)
		}
	}
	if keep == nil {
		return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return strings.Join(keep, string(os.PathListSeparator))
}

// Name is "exec".
func (a *Adapter) Name() string { return "exec" }

// Owner is the user that jobs run as: who must own a fresh view. It is 0, 0 where
// views belong to the agent's user anyhow.
func (a *Adapter) Owner() (uid, gid int) {
	if !a.o.RootMode {
		return 0, 0
	}
	return int(a.user.UID), int(a.user.GID)
}

// Run implements plugin.Adapter.
func (a *Adapter) Run(ctx context.Context, job plugin.Job, log io.Writer) (plugin.Result, error) {
	res, err := a.join(ctx, job, log)
	if kerr := a.Kill(context.WithoutCancel(ctx), job.Attempt); kerr != nil && err == nil {
		a.o.Log.Error("processes of a job can't be killed", "attempt", job.Attempt, "err", kerr)
		res.Status, res.Reason = plugin.StatusSystemFailure, leftRunning+kerr.Error()
	}
	return res, err
}

// check refuses what can't be run and fills in defaults.
func (a *Adapter) check(job *plugin.Job) error {
	if _, err := snapshot.ParseID(string(job.Attempt)); err != nil {
		return err
	}
	if job.Path == "" {
		job.Path = job.View
	}
	if !filepath.IsAbs(job.View) || !filepath.IsAbs(job.Path) {
		return fmt.Errorf("view %q at %q: want absolute paths", job.View, job.Path)
	}
	if job.Path != job.View && !a.o.RootMode {
		return fmt.Errorf("view %s can't be shown at %s without root", job.View, job.Path)
	}
	for _, h := range a.o.Hide {
		if a.o.RootMode && within(h, job.Path) {
			return fmt.Errorf("path %s lies in %s, which is hidden from jobs", job.Path, h)
		}
	}
	if job.Grace <= 0 {
		job.Grace = defaultGrace
	}
	if job.AfterTimeout <= 0 {
		job.AfterTimeout = defaultAfterTimeout
	}
	if job.Source != nil {
		return checkSource(job.Source)
	}
	return nil
}

// within reports whether path is dir or lies below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// errLost says that the supervisor died before the job did.
var errLost = errors.New("the job's supervisor was killed")

// leftRunning begins the reason when something of a job can't be ended.
const leftRunning = "what the job left running can't be killed: "
