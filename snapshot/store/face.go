package store

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// Options are what a store needs of its surroundings. Driver is required, the
// zero value of the rest works.
type Options struct {
	// Driver opens the way of making views below the store's directory.
	Driver func(root string) (view.Driver, error)
	// OnChange is told of every layer whose state changed (sealed, broken, synced,
	// packed, durable, suspect). It is called without locks held, must return soon
	// and may call back. Changes of one layer come in order.
	OnChange func(Info)
	Log      hclog.Logger
	Now      func() time.Time
	Rand     io.Reader
	// BootID names this run of the kernel; "" reads it from the system. Where it
	// can't be known every unsynced layer is suspect after a restart.
	BootID string
	// Owners says that uids and gids are recorded: the store runs as root.
	Owners bool
	// Workers bounds the goroutines that encode; 0 is one per core.
	Workers int
	// ReserveBytes is the size of the reserve; 0 means 16 MiB.
	ReserveBytes int64
	// CacheEntries bounds the trees kept in memory, by their entries; 0 means
	// 400,000 (about 150 MB).
	CacheEntries int
	// MaxChain bounds how many layers stand on each other where they are fetched:
	// the layer beyond names its whole tree in its index. 0 means 32.
	MaxChain int
}

// LockedError says that another process owns the store.
type LockedError struct {
	Dir    string
	Holder string // "pid 123 (roost agent)", "" when it can't be known
}

func (e *LockedError) Error() string {
	if e.Holder == "" {
		return fmt.Sprintf("store %s is held by another process", e.Dir)
	}
	return fmt.Sprintf("store %s is held by %s", e.Dir, e.Holder)
}

// MissingError names snapshots that an operation needs and this host lacks. It is
// a snapshot.ErrNotFound.
type MissingError struct {
	IDs []snapshot.ID
	Why string // "not held", "suspect: ...", "broken: ..."
}

func (e *MissingError) Error() string {
	more := ""
	if n := len(e.IDs) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Sprintf("snapshot %s%s: %s", e.IDs[0], more, e.Why)
}

// Unwrap makes it a snapshot.ErrNotFound.
func (e *MissingError) Unwrap() error { return snapshot.ErrNotFound }

// Input is one parent's output.
type Input struct {
	Snapshot snapshot.ID
	Job      string
	Manifest snapshot.Digest // checked when both it and the layer's are known
}

// Node is one snapshot in the history of the inputs.
type Node struct {
	ID      snapshot.ID
	Parents []snapshot.ID
	Job     string
}

// PrepareSpec says what a view starts from and where it appears.
type PrepareSpec struct {
	ID     snapshot.ID
	Inputs []Input // in the order of needs; none: an empty view
	// Lineage holds the inputs and their ancestors; it is read only when there are
	// several inputs. What this store knows itself is added.
	Lineage []Node
	Order   bool // on_conflict: order
	Prefer  []tree.Prefer
	Atomic  []string
	Caches  []string
	Target  string // absolute; made if absent
	UID     int    // owner of a fresh empty root
	GID     int
	// DomainKey keys the chunk ids of the layer that the view becomes.
	DomainKey []byte
	// Claim is the agent's own note about the view. It is written before anything
	// is mounted and handed back by Views.
	Claim []byte
	// Outlives says that the job may outlive this process: the next one finds the view
	// in its place, and can seal it.
	Outlives bool
}

// Attached is a view that is ready for its job.
type Attached struct {
	ID     snapshot.ID
	Target string
	// TreeBytes is the size of all files that it shows; of a base that was sealed a
	// moment ago, whose tree is not known yet, what that is at most. 0 if nobody knows.
	TreeBytes       int64
	Written         int64 // content bytes written to make it
	MTimeDivergence int
	Merged          bool // several inputs were merged
	Elapsed         time.Duration
}

// OpenView is a view that was left by an earlier process, is open in this one, or
// is sealed and was not reported yet.
type OpenView struct {
	ID      snapshot.ID
	Claim   []byte
	Sealed  bool
	Outcome []byte // of a sealed one
	// InPlace says of an open one that it is where its job wants it, and can be sealed.
	InPlace bool
}

// State is how far a layer has come.
type State string

// The states of a layer. Broken and suspect ones are never served or mounted.
const (
	Sealed  State = "sealed"  // fixed, usable on this host
	Packed  State = "packed"  // known by digests, can be uploaded
	Durable State = "durable" // the blob store has all of it
	Suspect State = "suspect" // its bytes may be damaged: Err says why
	Broken  State = "broken"  // holds what can't be part of a snapshot: Err says what
)

// Usable reports whether views may stand on a layer in this state.
func (s State) Usable() bool { return s == Sealed || s == Packed || s == Durable }

// Blob is a file that a layer's index names.
type Blob struct {
	Digest snapshot.Digest
	Bytes  int64
}

// Part is how much is here of what one layer stored.
type Part struct {
	ID    snapshot.ID
	Bytes int64 // as they are stored, without its index
	// Tree is the size of the tree that it is there with, without what came after it.
	Tree int64
}

// Info is what the store knows of one layer.
type Info struct {
	ID      snapshot.ID
	Made    time.Time     // when it was sealed, created or fetched; by this host's clock, for people
	Base    snapshot.ID   // whose tree the view showed first; "" for none
	Parents []snapshot.ID // all inputs of the job that made it
	State   State
	Synced  bool
	// StoredOnly says that its content is in packs alone: no view can stand on it
	// before Materialise.
	StoredOnly bool
	// Folded says that it was fetched as the last one of a chain: its index is this
	// host's own, and elsewhere it is several layers.
	Folded bool
	// Of is what a folded one has of the others of its chain: a fetch of one of them, or
	// of what stands on them, copies that. Only of use for an estimate.
	Of []Part
	// WireBase is what the changes in the index are against, so what another host
	// must have before it: Base, or "" for none. "" until packed.
	WireBase snapshot.ID
	// Manifest and Index are zero until packed.
	Manifest    snapshot.Digest
	Index       snapshot.Digest
	IndexBytes  int64
	StoredBytes int64 // own packs and index, as they are sent
	FetchBytes  int64 // about what a host that has no more than WireBase fetches
	PlainBytes  int64 // content that the layer brings, before compression
	TreeBytes   int64 // of all files of the snapshot
	Entries     int64 // of the snapshot's manifest
	DiskBytes   int64 // about what removing it would free
	EncodeMS    float64
	// Blobs are those that the index names and this host has: packs first, the
	// index last. Empty until packed.
	Blobs []Blob
	// Err is why the layer is broken or suspect, or why packing it waits.
	Err string
}

// OpenBlobFunc reads bytes [off, off+n) of a blob, n < 0 for all that follows. It
// may be called from several goroutines.
type OpenBlobFunc = func(ctx context.Context, blob snapshot.Digest, off, n int64) (io.ReadCloser, error)

// ImportSpec is a snapshot that another host packed. Its base must be held.
type ImportSpec struct {
	ID         snapshot.ID
	Base       snapshot.ID // Info.WireBase there; "" for none
	Parents    []snapshot.ID
	Index      snapshot.Digest
	IndexBytes int64
	Manifest   snapshot.Digest
	DomainKey  []byte
	// Later says that it may be used before it is on the disk: until SyncLater, or Run,
	// has brought it there, only this boot has it. Not every driver can do that; with
	// others it is on the disk at once.
	Later bool
}
