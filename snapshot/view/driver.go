// Package view gives each job a private, writable view of sealed snapshots. A
// driver is one way of doing it: EROFS images below overlay mounts, overlay mounts
// alone, copies. All drivers pass the suite in viewtest
// and produce the same manifests, byte for byte.
//
// A view is prepared on layers, written to by one job, and then either sealed,
// which makes it a layer that never changes again, or discarded. The package
// keeps no state of its own on disk besides the directories that it is given; the
// store beside it decides what is durable and when.
package view

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/roost-ci/roost/snapshot"
)

// Layer is what a driver made of one sealed snapshot: enough to prepare a view on
// it in any later process. The store keeps it as JSON and does not look inside.
// All paths are relative to the driver's root and are checked before use.
type Layer struct {
	ID snapshot.ID `json:"id"`
	// Dir holds the layer's own files: an upper, an unpacked delta, or a whole
	// tree, as the driver has it.
	Dir string `json:"dir"`
	// Lowers are the directories that show the whole snapshot when stacked, the
	// topmost first, Dir included. A copying driver has Dir alone.
	Lowers []string `json:"lowers,omitempty"`
	// Data are directories whose files are reached only by reference (overlay's
	// data-only lowers), in no particular order.
	Data []string `json:"data,omitempty"`
	// Image is a file that shows a tree below Lowers, which are then what changed
	// on top of it; there are none where it is the whole snapshot. "" for none.
	Image string `json:"image,omitempty"`
	// Key is what Image shows, and where from; "" if it has none.
	Key string `json:"key,omitempty"`
	// Devices are the bundles that the image has content in, in its order.
	Devices []string `json:"devices,omitempty"`
	// Small counts, by directory of Data, the files there that the image leads to and
	// that a bundle could hold. It says nothing unless Counted.
	Small   map[string]int `json:"small,omitempty"`
	Counted bool           `json:"counted,omitempty"`
	// Gathered says that the layer's own small files are in a bundle beside Dir, Pruned
	// that Dir may lack them.
	Gathered bool `json:"gathered,omitempty"`
	Pruned   bool `json:"pruned,omitempty"`
}

// Fanin is a merge that a view must show: Changes, of which there are some, turn the tree
// of the first parent into the merged tree. Files carry a Source, which lies in a sealed
// layer on this host.
type Fanin struct {
	Changes Changes
	// Tree is the merged tree itself, of Entries or so: an Imager may show it without
	// making Changes. Nil where the caller does not have it.
	Tree    Tree
	Entries int
	// Again says that the same merge was shown before, by the image with this key if every
	// file is where it was then: View.MergeKey, "" for none.
	Again bool
	Key   string
}

// Spec says what a new view shows and where.
type Spec struct {
	// ID names the view; the layer that it becomes has the same id.
	ID snapshot.ID
	// Base is the first parent's layer, nil for an empty view.
	Base *Layer
	// Fanin is nil unless several parents are merged.
	Fanin *Fanin
	// Target is the absolute path of the directory where the tree appears. It is
	// made if absent and must be empty.
	Target string
	// Owner of a fresh empty root; ignored when it is 0,0 or can't be set.
	UID, GID int
	// Meter counts the bytes that are written to make the view. May be nil.
	Meter *Meter
}

// Meter counts content bytes at the calls that write them.
type Meter struct{ written atomic.Int64 }

// Add counts n bytes. A nil Meter counts nothing.
func (m *Meter) Add(n int64) {
	if m != nil {
		m.written.Add(n)
	}
}

// Written returns the bytes counted so far.
func (m *Meter) Written() int64 {
	if m == nil {
		return 0
	}
	return m.written.Load()
}

// View is a prepared view. It serialises to JSON so that the store can write it
// down before the job starts and a later process can seal or discard it.
type View struct {
	ID     snapshot.ID `json:"id"`
	Target string      `json:"target"`
	Layer  Layer       `json:"layer"` // what the view becomes when sealed
}

// MergeKey is what Fanin.Key of a later view of the same merge is to be: "" if this
// one is not shown by an image of its own.
func (v *View) MergeKey() string {
	if v.Layer.Image == "" || v.Layer.Image != part(v.ID, startPrefix) {
		return ""
	}
	return v.Layer.Key
}

// WriteFunc stores plain bytes at off of the file of changes[i]. It may be called
// from several goroutines, for any file in any order.
type WriteFunc func(i int, off int64, p []byte) error

// Driver is one way of making views. Methods may be called from any goroutine;
// those on one ID must not overlap. root is fixed when the driver is opened, and
// one process owns it.
type Driver interface {
	// Name is the word in configuration and in reports: "overlay", "copy".
	Name() string

	// Prepare makes a view. On error nothing of it is left. What it shows is
	// exactly the merged tree of its layers; nobody else ever sees what the job
	// writes.
	Prepare(ctx context.Context, spec Spec) (*View, error)

	// Seal ends a view whose processes are gone. After it returned nobody can
	// change the layer. snapshot.ErrBusy says that somebody can still write; the
	// view is then as before. It does no hashing and waits for no data. It is
	// idempotent: a view that is already unmounted is sealed.
	Seal(ctx context.Context, v *View) error

	// Discard drops a view and all that was written in it. Idempotent; also for a
	// view whose Prepare was cut short by a crash.
	Discard(ctx context.Context, v *View) error

	// Changes lists what a sealed layer changed against base, the tree that its
	// view started from. Files that may have changed carry a Source and no Chunks.
	// The result is sorted. *snapshot.UnsupportedError names what can't be kept.
	Changes(ctx context.Context, l *Layer, base *snapshot.Manifest) ([]snapshot.Change, error)

	// Unpack makes a sealed layer from changes against base (nil: the empty tree),
	// for a snapshot that came from elsewhere. It makes the files, then calls fill
	// once to have their content written, then sets modes, owners and times, and
	// returns after syncing it all to disk. On error nothing of it is left. An
	// Imager stores the content alone: nothing stands on the layer before Image.
	Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
		fill func(ctx context.Context, write WriteFunc) error, m *Meter) (*Layer, error)

	// Locate sets Source and SourceAt of each file among changes, which are those
	// that Unpack was given.
	Locate(l *Layer, changes []snapshot.Change)

	// Mount shows a sealed layer read-only at target until the closer is closed.
	Mount(ctx context.Context, l *Layer, target string) (io.Closer, error)

	// Sync makes a sealed layer survive a power cut.
	Sync(ctx context.Context, l *Layer) error

	// Remove deletes a layer's own files. Nothing may stand on it any more.
	Remove(ctx context.Context, l *Layer) error

	// Reconcile is called once, before anything else, with the ids of the layers
	// and of the views that the store knows. It unmounts everything mounted below
	// the driver's root and removes what belongs to no known id. It returns what it
	// had to clean, for the log.
	Reconcile(ctx context.Context, layers, views []snapshot.ID) ([]string, error)
}

// Imager is a driver that can show a whole tree from a manifest alone, without
// creating a file per entry.
type Imager interface {
	// Image makes the image of l, also again: m is l's whole tree, in which every
	// file with content has a Source in a layer of this root. base, if any, is the
	// layer whose inode numbers are kept. It returns what l is from then on, with
	// no Lowers, and Data and Devices exactly what the image refers to. l's own
	// files stay, and views that stand on what l was go on. It is durable when it
	// returns. *snapshot.UnsupportedError names an entry that no image can show;
	// l is then as before.
	Image(ctx context.Context, l, base *Layer, m *snapshot.Manifest) (*Layer, error)
	// Warm mounts l's image, if it has one, so that the next view on it need not.
	Warm(ctx context.Context, l *Layer) error
}

// Cacher is a driver that keeps what nobody needs just now.
type Cacher interface {
	// DropCached deletes it, since room is needed.
	DropCached()
}

// Resumer is a driver whose views outlive the process that made them.
type Resumer interface {
	// Resume takes over a view that an earlier process made and that a job may be in. It
	// is called before Reconcile, which then leaves the view alone, and all that is
	// mounted in it. snapshot.ErrNotFound says that it is not there any more.
	Resume(ctx context.Context, v *View) error
}
