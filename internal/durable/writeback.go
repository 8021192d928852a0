package durable

import (
	"sync"
	"sync/atomic"
)

// writebackEvery is after how many bytes the disk is set to work again.
const writebackEvery = 8 << 20

// Writeback has files written to the disk while others are still being filled, so
// that the sync at the end does not begin with all of it. It promises nothing: each
// file has to be synced as before.
type Writeback struct {
	since atomic.Int64
	kick  chan int
	done  sync.WaitGroup
}

// NewWriteback starts one. Stop must be called.
func NewWriteback() *Writeback {
	w := &Writeback{kick: make(chan int, 1)}
	w.done.Go(func() {
		for fd := range w.kick {
			startWriteback(fd)
		}
	})
	return w
}

// Wrote says that n bytes were written to the file open as fd. It may be called by
// several goroutines, but not after Stop. A file that is closed meanwhile is left
// to the kernel.
func (w *Writeback) Wrote(fd uintptr, n int) {
	if w.since.Add(int64(n)) < writebackEvery {
		return
	}
	w.since.Store(0)
	select {
	case w.kick <- int(fd):
	default: // it has not come to the last one yet
	}
}

// Stop waits for what it does.
func (w *Writeback) Stop() {
	close(w.kick)
	w.done.Wait()
}
