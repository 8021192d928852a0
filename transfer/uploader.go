package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
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

// Item is one packed snapshot: the blobs of its layer, the index last. A blob that
// several items name is sent once.
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
	// other, because the store has not got the blobs any more.
	Failing func(id snapshot.ID, err error, dropped bool)
	Workers int   // blobs sent at a time; default 4
	Rate    int64 // most bytes per second over all workers; 0: no limit
	// Stall is how long a request may stand still, the server's work after the last
	// byte included, before it is broken off; default 60 s.
	Stall time.Duration
	// Backoff is about how long an item waits after its first failure; default 500 ms.
	// It doubles with each failure in a row, up to 128 times as long.
	Backoff time.Duration
	MaxQ    int // most items queued; default 100,000
	Log     hclog.Logger
	Now     func() time.Time
	Rand    io.Reader // jitter of the back-off
}

// Uploader is a queue of items that Run sends, first in first out, urgent ones
// before all others. Blobs are sent side by side; the index of an item goes only
// after its packs, and Durable is told only after the index. So whoever finds an
// index in the blob store finds what it names.
//
// What fails is tried again for ever, with a growing wait: for the item, and for
// all if the blob store seems to be down. While it is, one request at a time asks.
//
// The queue is in memory. After a restart the store says again what is not durable;
// what was sent is then found by its size and not sent twice.
type Uploader struct {
	o       UploaderOptions
	limit   *limiter
	meter   *meter
	item    backoff
	overall backoff

	// mu guards what follows. It is never held across I/O or a callback.
	mu      sync.Mutex
	urgent  []*entry
	normal  []*entry
	byID    map[snapshot.ID]*entry
	sooner  map[snapshot.ID]bool     // urgent ones that are not enqueued yet
	sending map[snapshot.Digest]bool // by some worker now
	active  int                      // workers at work
	fails   int                      // of the blob store, in a row
	breaks  int                      // of requests that it had answered, in a row
	paused  time.Time                // nothing is sent before
	changed chan struct{}            // closed and replaced when something changes
}

// maxSooner bounds what Urgent remembers for later. Beyond it, it forgets all: urgent
// is a wish, and the coordinator repeats those that still matter.
const maxSooner = 10_000

// NewUploader returns an empty queue. Nothing is sent before Run.
func NewUploader(o UploaderOptions) *Uploader {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Backoff == 0 {
		o.Backoff = 500 * time.Millisecond
	}
	if o.MaxQ == 0 {
		o.MaxQ = 100_000
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return &Uploader{
		o:       o,
		limit:   newLimiter(o.Rate, o.Now),
		meter:   newMeter(o.Now),
		item:    backoff{pause.Backoff{First: o.Backoff, Most: 128 * o.Backoff, Rand: o.Rand}},
		overall: backoff{pause.Backoff{First: o.Backoff / 2, Most: 64 * o.Backoff, Rand: o.Rand}},
		byID:    map[snapshot.ID]*entry{},
		sooner:  map[snapshot.ID]bool{},
		sending: map[snapshot.Digest]bool{},
		changed: make(chan struct{}),
	}
}

// Enqueue adds it unless its id is queued already. It never blocks; the only error
// is ErrQueueFull.
func (u *Uploader) Enqueue(it Item) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byID[it.ID] != nil {
		return nil
	}
	if len(u.byID) >= u.o.MaxQ {
		return ErrQueueFull
	}
	e := newEntry(it)
	u.byID[it.ID] = e
	if u.sooner[it.ID] {
		delete(u.sooner, it.ID)
		u.urgent = append(u.urgent, e)
	} else {
		u.normal = append(u.normal, e)
	}
	u.wakeLocked()
	return nil
}

// Urgent puts items, in this order, behind those that are urgent already and before
// all others. It may name items that are enqueued only later. An item that waits
// after a failure is tried at once.
func (u *Uploader) Urgent(ids ...snapshot.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range ids {
		e := u.byID[id]
		if e == nil {
			if len(u.sooner) >= maxSooner {
				clear(u.sooner)
			}
			u.sooner[id] = true
			continue
		}
		if without, ok := remove(u.normal, e); ok {
			u.normal = without
			u.urgent = append(u.urgent, e)
			e.notBefore = time.Time{}
		}
	}
	u.wakeLocked()
}

// Pending returns how many items are queued, and how many bytes of them are not
// confirmed. A blob that several items name is counted for each.
func (u *Uploader) Pending() (items int, bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range u.byID {
		bytes += e.left
	}
	return len(u.byID), bytes
}

// Rate is a moving average of bytes per second over all workers while something was
// being sent, 0 while unknown.
func (u *Uploader) Rate() float64 { return u.meter.rate() }

// Limit changes the most bytes per second over all workers; 0: no limit. It may be
// called at any time.
func (u *Uploader) Limit(rate int64) { u.limit.set(rate) }

// Drain waits until the queue is empty, or ctx ends. Somebody else must Run.
func (u *Uploader) Drain(ctx context.Context) error {
	for {
		u.mu.Lock()
		n, changed := len(u.byID), u.changed
		u.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Run sends until ctx ends, then waits for what it started and returns nil. One Run
// at a time; what was not sent stays queued for another.
func (u *Uploader) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range u.o.Workers {
		wg.Go(func() { u.work(ctx) })
	}
	wg.Wait()
	return nil
}

// wakeLocked lets all who wait look again.
func (u *Uploader) wakeLocked() {
	close(u.changed)
	u.changed = make(chan struct{})
}
