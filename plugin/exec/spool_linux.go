package exec

import (
	"os"
	"sync"
	"time"
)

// Bounds of a spool.
const (
	maxSpool = 1 << 20   // bytes that nobody has got yet; then the job waits
	maxPiece = 256 << 10 // of one message
	// gather is the pause after a piece, so that a job that says little and often does
	// not wake three processes each time.
	gather = 3 * time.Millisecond
)

// spool is a supervisor's end of the one pipe that all of a job writes to, so that its
// two streams stay in order. What was read from it is kept until it was got.
type spool struct {
	r, w *os.File
	full chan struct{} // closed at the end of the output

	mu    sync.Mutex
	moved sync.Cond // anything below has changed
	buf   []byte    // what nobody has got
	base  int64     // the number of its first byte
	eof   bool
	last  *fromChild // what comes after the last byte
	to    *peer      // who is fed; nil: nobody
}

func newSpool() (*spool, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	growPipe(w)
	o := &spool{r: r, w: w, full: make(chan struct{})}
	o.moved.L = &o.mu
	w.Fd() // makes it blocking, as the shells want it
	go o.fill()
	return o, nil
}

// fill reads the pipe to its end.
func (o *spool) fill() {
	piece := make([]byte, maxPiece)
	for {
		n, err := o.r.Read(piece)
		o.mu.Lock()
		o.buf = append(o.buf, piece[:n]...)
		if err != nil && !o.eof {
			o.eof = true
			close(o.full)
		}
		o.moved.Broadcast()
		for len(o.buf) >= maxSpool && !o.eof {
			o.moved.Wait()
		}
		over := o.eof
		o.mu.Unlock()
		if over {
			return
		}
	}
}

// drain waits until the last byte was read. Whoever still holds the other end when
// nothing more comes is no process of the job's. While nobody takes the output there
// is no limit: an adapter comes back, or our end.
func (o *spool) drain() {
	o.w.Close() //nolint:errcheck // our copy; nothing was buffered
	for before := int64(-1); ; {
		t := time.NewTimer(drainTimeout)
		select {
		case <-o.full:
			t.Stop()
			return
		case <-t.C:
		}
		o.mu.Lock()
		total := o.base + int64(len(o.buf))
		stuck := total == before && len(o.buf) < maxSpool
		o.mu.Unlock()
		if stuck {
			return
		}
		before = total
	}
}

// finish says what comes after the last byte.
func (o *spool) finish(m fromChild) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.eof {
		o.eof = true
		close(o.full)
	}
	o.last = &m
	o.moved.Broadcast()
}

// drop forgets what was got.
func (o *spool) drop(got int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := min(got-o.base, int64(len(o.buf))); n > 0 {
		o.buf = o.buf[:copy(o.buf, o.buf[n:])]
		o.base += n
	}
	o.moved.Broadcast()
}

// leave ends the feeding of p.
func (o *spool) leave(p *peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to == p {
		o.to = nil
	}
	o.moved.Broadcast()
}

// feed gives p the output from a byte on, each piece when the last one was got, and
// then what comes after it. Another peer takes its place.
func (o *spool) feed(p *peer, from int64) {
	o.drop(from)
	o.mu.Lock()
	o.to = p
	o.moved.Broadcast()
	o.mu.Unlock()
	for {
		m := o.next(p)
		if m == nil || p.send(m) != nil {
			return
		}
		if m.Output == nil || !o.got(p, m.At+int64(len(m.Output))) {
			return
		}
		t := time.NewTimer(gather)
		select {
		case <-o.full:
		case <-t.C:
		}
		t.Stop()
	}
}

// next waits for something to tell p. nil: it is not fed any more.
func (o *spool) next(p *peer) *fromChild {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		switch {
		case o.to != p:
			return nil
		case len(o.buf) > 0:
			piece := o.buf[:min(len(o.buf), maxPiece)]
			return &fromChild{Output: append([]byte(nil), piece...), At: o.base}
		case o.eof && o.last != nil:
			return o.last
		}
		o.moved.Wait()
	}
}

// got waits until p has got the output up to at.
func (o *spool) got(p *peer, at int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.to == p && o.base < at {
		o.moved.Wait()
	}
	return o.to == p
}
