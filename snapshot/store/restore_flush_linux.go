package store

import (
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A flusher syncs a file system over and over while small files are made there, so that
// the sync at the end does not begin with all of them: giving them blocks is work for
// one core, which has nothing to do then but that.
type flusher struct {
	since atomic.Int64
	kick  chan struct{}
	done  sync.WaitGroup
	err   error // after done
}

const (
	// flushEvery is after how many bytes the next sync begins, if none is under way.
	flushEvery = 32 << 20
	// flushFile is what a file weighs beside its content.
	flushFile = 4 << 10
)

// newFlusher starts one for the file system of the directory open as root. stop must be
// called.
func newFlusher(root int) *flusher {
	f := &flusher{kick: make(chan struct{}, 1)}
	f.done.Go(func() {
		for range f.kick {
			// Each error is told once: the sync at the end would not hear of it.
			f.err = errors.Join(f.err, unix.Syncfs(root))
		}
	})
	return f
}

// wrote says that a small file of n bytes was written. Any goroutine may call it.
func (f *flusher) wrote(n int64) {
	if f.since.Add(n+flushFile) < flushEvery {
		return
	}
	f.since.Store(0)
	select {
	case f.kick <- struct{}{}:
	default: // it has not come to the last one yet
	}
}

// stop waits for what it does, and returns what went wrong.
func (f *flusher) stop() error {
	close(f.kick)
	f.done.Wait()
	return f.err
}
