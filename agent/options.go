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
	Import(ctx context.Context, spec store.ImportSpec, open store.OpenBlobFunc, m *view.Meter) error
}

// Options say what an agent is. Name, Coordinator, Store, Adapter and Blobs must
// be set.
type Options struct {
	Name string
	Tags []string
	// Slots is how many jobs run at a time. Default 1.
	Slots int
	// Dir holds the logs on their way. Default: the store's directory. Views are
	// mounted below <store's directory>/slots.
	Dir string
	// BuildsDir is where jobs see their views: BuildsDir/<project>, the same path in
	// every slot and on every host. It needs an adapter with mount namespaces. ""
	// means that each job sees its view where it is, another path in each slot.
	BuildsDir   string
	Coordinator *api.Client
	Store       Store
	Adapter     plugin.Adapter
	Blobs       blob.Store
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
	case o.Coordinator == nil || o.Store == nil || o.Adapter == nil || o.Blobs == nil:
		return nil, errors.New("agent: coordinator, store, adapter and blobs must be given")
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
