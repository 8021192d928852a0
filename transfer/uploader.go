package transfer

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// ErrQueueFull says that an Uploader holds as many items as it may. The store
// knows what is not durable yet, so the caller offers it again later.
var ErrQueueFull = errors.New("the upload queue is full")

// Blob is one blob of an item.
type Blob struct {
	Digest snapshot.Digest
	Bytes  int64
}

// Item is one packed snapshot: the blobs of its layer, the index last.
type Item struct {
	ID    snapshot.ID
	Blobs []Blob
}

// Source is the part of a store that an upload needs.
type Source interface {
	// OpenBlob opens a pack or an index. The caller closes it. One that the store
	// does not hold (any more) is snapshot.ErrNotFound.
	OpenBlob(ctx context.Context, d snapshot.Digest) (io.ReadSeekCloser, int64, error)
}

// UploaderOptions says what an Uploader needs. Source, Blobs and Durable must be set.
type UploaderOptions struct {
	Source Source
	Blobs  blob.Store
	// Durable is told once all blobs of an item are confirmed. It may be called
	// again for the same id; an error means that it will be. snapshot.ErrNotFound
	// says that nobody wants to know and drops the item.
	Durable func(context.Context, snapshot.ID) error
	// Failing, if set, hears of each failed try; dropped says that there will be no
	// other.
	Failing func(id snapshot.ID, err error, dropped bool)
	Workers int           // blobs sent at a time; default 4
	Rate    int64         // most bytes per second over all workers; 0: no limit
	Stall   time.Duration // a PUT without progress for so long is broken off; default 60 s
	MaxIDs  int           // most items queued; default 100,000
	Log     hclog.Logger
	Now     func() time.Time
	Rand    io.Reader
}

// Uploader is a queue of items that Run sends.
type Uploader struct{ o UploaderOptions }

// NewUploader returns an empty queue. Nothing is sent before Run.
func NewUploader(o UploaderOptions) *Uploader { return &Uploader{o: o} }

// Enqueue adds it unless its id is queued already. It never blocks.
func (u *Uploader) Enqueue(it Item) error { return errors.ErrUnsupported }

// Urgent puts items in front of all that are not urgent, also those that are
// enqueued only later.
func (u *Uploader) Urgent(ids ...snapshot.ID) {}

// Pending returns how many items are queued, and how many bytes of them are not confirmed.
func (u *Uploader) Pending() (items int, bytes int64) { return 0, 0 }

// Rate is a moving average of bytes per second sent while something was being
// sent, 0 while unknown.
func (u *Uploader) Rate() float64 { return 0 }

// Drain waits until the queue is empty, or ctx ends.
func (u *Uploader) Drain(ctx context.Context) error { return errors.ErrUnsupported }

// Run sends until ctx ends, then waits for what it started and returns nil.
func (u *Uploader) Run(ctx context.Context) error { return errors.ErrUnsupported }
