package view

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
)

// Names of the drivers.
const (
	NameErofs   = "erofs"
	NameOverlay = "overlay"
	NameReflink = "reflink"
	NameCopy    = "copy"
)

// Options of a driver. The zero value works.
type Options struct {
	// Log gets what a driver had to work around. Default: nothing is logged.
	Log hclog.Logger
	// Owners says that users and groups are recorded and restored. It needs root;
	// without it every entry belongs to 0:0 in manifests.
	Owners bool
	// SealWait is how long Seal waits for the last writer to vanish before it
	// says snapshot.ErrBusy. Default 250 ms.
	SealWait time.Duration
	// ReconcileWait is the same for each mount that Reconcile finds. Default 5 s.
	ReconcileWait time.Duration
	// MaxLowers is the number of stacked directories above which a view is
	// flattened. Default 120: a lookup of a missing name costs a microsecond per
	// directory, and the kernel ends at 500.
	MaxLowers int
	// NoDataDirs makes the overlay driver behave as on a kernel older than 6.8,
	// which knows neither lowerdir+ nor datadir+. The probe sets it there.
	NoDataDirs bool
	// ScratchFrom is how many bytes the inodes of an image have to take to wait in a file
	// instead of in memory. Default 48 MiB: some 200,000 entries.
	ScratchFrom int64
	// FarMost is how many entries of a renamed directory a layer's tree has in memory while
	// it is gone through. Of one that has more the base is read once more, of eight of
	// them at most. Default 100,000: some 40 MB.
	FarMost int
	// ToLook says that what is unpacked is looked at more than it is worked on. Its large
	// files may lie with the small ones then, so that it is shown without an overlay; a
	// view that writes to one copies it, also where files can be cloned.
	ToLook bool
	// Keep names mount points that Reconcile leaves as they are: what a person
	// wants to look at for longer than the process that mounted it lives.
	Keep map[string]bool
	// Sleep waits between two tries. Default: a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.SealWait == 0 {
		o.SealWait = 250 * time.Millisecond
	}
	if o.ReconcileWait == 0 {
		o.ReconcileWait = 5 * time.Second
	}
	if o.MaxLowers == 0 {
		o.MaxLowers = 120
	}
	if o.FarMost == 0 {
		o.FarMost = 100_000
	}
	if o.ScratchFrom == 0 {
		o.ScratchFrom = 48 << 20
	}
	if o.Sleep == nil {
		o.Sleep = pause.For
	}
	return o
}
