package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// missingBlobs tells the coordinator what to ask its hosts for.
func missingBlobs(dir *blob.Dir, log hclog.Logger) func() []snapshot.Digest {
	return func() []snapshot.Digest {
		list, err := dir.Missing()
		if err != nil {
			log.Warn("damaged blobs can't be listed", "error", err)
		}
		return list
	}
}

// blobScrub reads all blobs over and over. How often and how fast may change.
type blobScrub struct {
	log hclog.Logger

	mu      sync.Mutex // guards all below
	every   time.Duration
	rate    int64
	changed chan struct{} // closed when every has changed
}

func newBlobScrub(log hclog.Logger) *blobScrub {
	return &blobScrub{log: log, changed: make(chan struct{})}
}

// blobScrubOf translates what the file says.
func blobScrubOf(c configs.Coordinator) (every time.Duration, rate int64, err error) {
	if every, err = time.ParseDuration(c.ScrubInterval); err != nil {
		return 0, 0, err
	}
	rate, err = configs.ParseSize(c.ScrubRate)
	return every, rate, err
}

// set changes how often (0: never) and how fast, from the next reading on.
func (b *blobScrub) set(every time.Duration, rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate = rate
	if b.every != every {
		b.every = every
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

func (b *blobScrub) get() (every time.Duration, rate int64, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.every, b.rate, b.changed
}

// start reads until stop is called. It begins somewhere, so that a coordinator that is
// often restarted comes to all of them, too.
func (b *blobScrub) start(dir *blob.Dir) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		last := time.Now()
		for first := true; ; {
			every, rate, changed := b.get()
			if !b.wait(ctx, changed, every, time.Until(last)+every, first) {
				if ctx.Err() != nil {
					return
				}
				continue
			}
			b.once(ctx, dir, rate)
			first, last = false, time.Now()
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// wait reports whether it is time to read; if not, something has changed or ended.
func (b *blobScrub) wait(ctx context.Context, changed <-chan struct{}, every, due time.Duration, first bool) bool {
	var when <-chan time.Time
	if every > 0 {
		if first {
			due = min(due, time.Minute)
		}
		t := time.NewTimer(max(due, 0))
		defer t.Stop()
		when = t.C
	}
	select {
	case <-when:
		return true
	case <-changed:
		return false
	case <-ctx.Done():
		return false
	}
}

func (b *blobScrub) once(ctx context.Context, dir *blob.Dir, rate int64) {
	st, err := dir.Scrub(ctx, byte(rand.Uint32()), rate, func(d snapshot.Digest, err error) {
		b.log.Error("A BLOB IS DAMAGED; it was set aside, and hosts that have it are asked for it", "digest", d, "error", err)
	})
	if err != nil && ctx.Err() == nil {
		b.log.Error("scrub of the blob store", "error", err)
	} else if err == nil {
		b.log.Info("scrub of the blob store", "blobs", st.Blobs, "bytes", st.Bytes, "damaged", st.Damaged)
	}
}
