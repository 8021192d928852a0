package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

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

// scrubBlobs reads all blobs over and over until stop is called. It begins somewhere,
// so that a coordinator that is often restarted comes to all of them, too.
func scrubBlobs(dir *blob.Dir, every time.Duration, rate int64, log hclog.Logger) (stop func()) {
	if every <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for wait := time.Minute; ; wait = every {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
			st, err := dir.Scrub(ctx, byte(rand.Uint32()), rate, func(d snapshot.Digest, err error) {
				log.Error("A BLOB IS DAMAGED; it was set aside, and hosts that have it are asked for it", "digest", d, "error", err)
			})
			if err != nil && ctx.Err() == nil {
				log.Error("scrub of the blob store", "error", err)
			} else if err == nil {
				log.Info("scrub of the blob store", "blobs", st.Blobs, "bytes", st.Bytes, "damaged", st.Damaged)
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
