package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/agent/leftovers"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer/blob"
)

// Store is what the agent needs of the host's store; *store.Store has it. The
// agent runs its background work (Run); opening and closing it is the caller's.
type Store interface {
	ID() snapshot.ID
	Dir() string
	Driver() view.Driver
	Run(ctx context.Context) error

	Needs(p store.PrepareSpec) []snapshot.ID
	Prepare(ctx context.Context, p store.PrepareSpec) (*store.Attached, error)
	Seal(ctx context.Context, id snapshot.ID, outcome []byte) (store.Info, error)
	Discard(ctx context.Context, id snapshot.ID) error
	Views() []store.OpenView
	Reported(ctx context.Context, id snapshot.ID) error
	Settle(ctx context.Context) error
	Empty(ctx context.Context, dir string) error
	Drop(ctx context.Context, id snapshot.ID) error
	Hold(ctx context.Context, ids ...snapshot.ID) (release func(), err error)
	Evict(ctx context.Context, spec store.EvictSpec) (store.EvictReport, error)
	Scrub(ctx context.Context, o store.ScrubOptions) (store.ScrubReport, error)
	Reoffer(ctx context.Context, lost snapshot.Digest) (store.Info, error)
	Usage() int64

	Lookup(id snapshot.ID) (store.Info, error)
	List() []store.Info
	Tree(ctx context.Context, id snapshot.ID) (*snapshot.Manifest, error)
	First(ids ...snapshot.ID)
	Packed(ctx context.Context, id snapshot.ID) (store.Info, error)
	MarkDurable(ctx context.Context, id snapshot.ID) error
	OpenBlob(ctx context.Context, d snapshot.Digest) (io.ReadSeekCloser, int64, error)
	ImportChain(ctx context.Context, chain []store.ImportSpec, open store.OpenBlobFunc, m *view.Meter) error
	Materialise(ctx context.Context, id snapshot.ID, m *view.Meter) error
}

// Plugin keeps an adapter running that has runners of its own, in whatever process;
// *pluginhost.Host is one.
type Plugin interface {
	// Run returns nil when ctx has ended, and before that only if the adapter can't
	// be kept running.
	Run(ctx context.Context) error
	// Lost is plugin.Plugin's. An adapter that is down is told when it is back.
	Lost(ctx context.Context, attempt snapshot.ID, why string) error
}

// Options say what an agent is. Name, Coordinator, Store, Blobs and either Adapter
// or Plugin must be set.
type Options struct {
	Name string
	Tags []string
	// Slots is how many jobs run at a time. Default 1.
	Slots int
	// Dir holds the logs on their way and the notes of attempts. Default: the store's
	// directory.
	Dir string
	// BuildsDir is where jobs see their views: BuildsDir/<project>, the same path in
	// every slot and on every host. It needs an adapter with mount namespaces. ""
	// means that each job sees its view where it is, another path in each slot.
	BuildsDir   string
	Coordinator *api.Client
	Store       Store
	// Adapter runs jobs. A host has either it or Plugin. One that has
	// Keep(ctx) error, as *pluginhost.Jobs, lives in a process that Keep keeps
	// running: Run calls it before anything else, and ends it when no job is left.
	Adapter plugin.Adapter
	// Plugin makes what has runners that ask for jobs: a job is taken only while one of
	// them wants it. It is called once, by New, with what the plugin may call as
	// long as Run of it lasts. Pool says whose jobs they are.
	Plugin func(a plugin.Agent) (Plugin, error)
	Pool   *api.Pool
	// UID and GID are the user of the jobs: they own fresh views and the directories
	// of slots. An Adapter that has Owner() says it by itself.
	UID, GID int
	// SlotsDir has a directory for each slot, in which views appear. Default: slots in
	// the store's directory. The copying drivers need it on the store's file system.
	SlotsDir string
	// Cgroups, if set, names the control groups of a slot's jobs: all in them is ended
	// before a view of that slot is sealed or discarded. What holds a view is ended
	// in any case.
	Cgroups func(slot int) []leftovers.Cgroup
	// LostWait is how long a runner has to stop a job that is not this host's any more,
	// until its workspace is taken away from it. Default 15 min: runners give their
	// scripts 10.
	LostWait time.Duration
	Blobs    blob.Store
	// UploadRate bounds uploads, in bytes per second. 0: no limit.
	UploadRate int64
	// LogLimit bounds one job's log, in bytes; what comes after is dropped, and the
	// log says so. Default 64 MiB.
	LogLimit int64
	// Grace is what a job has between SIGTERM and SIGKILL. Default 10 s.
	Grace time.Duration
	// DrainTimeout bounds what Run still does once its context has ended and the
	// jobs are stopped: report, pack, upload. Default 30 s.
	DrainTimeout time.Duration
	// Room says how much of the disk the store may have.
	Room Room
	// Scrub says how damage in the store is looked for.
	Scrub Scrub
	// BootID names this run of the kernel, Version this program.
	BootID  string
	Version string
	// Ready, if set, is called once the agent is registered.
	Ready func()
	Log   hclog.Logger
	Now   func() time.Time
	Rand  io.Reader
}

// New checks the options. It starts nothing and touches no disk.
func New(o Options) (*Agent, error) {
	switch {
	case o.Name == "":
		return nil, errors.New("agent: no name")
	case o.Coordinator == nil || o.Store == nil || o.Blobs == nil:
		return nil, errors.New("agent: coordinator, store and blobs must be given")
	case (o.Adapter == nil) == (o.Plugin == nil):
		return nil, errors.New("agent: want either an adapter or a plugin")
	case o.Slots < 0:
		return nil, fmt.Errorf("agent: %d slots", o.Slots)
	case o.BuildsDir != "" && !filepath.IsAbs(o.BuildsDir):
		return nil, fmt.Errorf("agent: builds directory %q: want an absolute path", o.BuildsDir)
	}
	if o.Slots == 0 {
		o.Slots = 1
	}
	if o.Dir == "" {
		o.Dir = o.Store.Dir()
	}
	if o.SlotsDir == "" {
		o.SlotsDir = filepath.Join(o.Store.Dir(), "slots")
	}
	if o.LostWait <= 0 {
		o.LostWait = 15 * time.Minute
	}
	if o.LogLimit <= 0 {
		o.LogLimit = 64 << 20
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = 30 * time.Second
	}
	o.Room, o.Scrub = o.Room.withDefaults(), o.Scrub.withDefaults()
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return newAgent(o)
}
