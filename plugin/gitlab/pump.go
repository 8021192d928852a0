package gitlab

import (
	"errors"
	"io"
	"sync"
)

// streamBuffer is what one direction of a stream holds in memory, and pieceMax the most that is
// read at once: as much as stays in a processor's cache until it is written.
const (
	streamBuffer = 512 << 10
	pieceMax     = 128 << 10
)

// buffers keeps buffers of streams for the next one.
type buffers struct{ sync.Pool }

func (b *buffers) get() []byte {
	if p, ok := b.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, streamBuffer)
}

// move copies r to w until r ends. If w fails, r may still be read from once after move has
// returned: close it, or what it reads from.
func (b *buffers) move(w io.Writer, r io.Reader) (int64, error) {
	p := &pump{buf: b.get()}
	p.changed.L = &p.mu
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.fill(r)
	}()
	n, err := p.drain(w)
	if err == nil {
		<-done
		b.Put(&p.buf)
	}
	return n, err
}

// A pump moves bytes by two goroutines: one reads while the other writes, so that neither end
// waits for the other, and what came while a piece was being written goes out in one. Nothing is
// held back: a byte that has come is written as soon as the one before it is. In between no byte
// is copied.
type pump struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     []byte
	// n bytes from buf[from] on are filled, round the end; the next one comes to buf[to].
	from, to, n int
	err         error // of the reader
	stopped     bool  // by the writer
}

// fill reads r until it ends.
func (p *pump) fill(r io.Reader) {
	for {
		room := p.room()
		if room == nil {
			return
		}
		n, err := r.Read(room[:min(len(room), pieceMax)])
		p.mu.Lock()
		p.to = (p.to + n) % len(p.buf)
		p.n += n
		p.err = err
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// room waits for a place to read to; nil: nobody wants more.
func (p *pump) room() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.n == len(p.buf) && !p.stopped {
		p.changed.Wait()
	}
	switch {
	case p.stopped:
		return nil
	case p.n == 0:
		p.from, p.to = 0, 0
	case p.to < p.from:
		return p.buf[p.to:p.from]
	}
	return p.buf[p.to:]
}

// drain writes to w what is read, and gives the error of the first that has one; nil at the end.
func (p *pump) drain(w io.Writer) (total int64, err error) {
	for {
		p.mu.Lock()
		for p.n == 0 && p.err == nil {
			p.changed.Wait()
		}
		end := min(p.from+p.n, len(p.buf))
		piece := p.buf[p.from:end]
		if len(piece) == 0 {
			err = p.err
		}
		p.mu.Unlock()
		if len(piece) == 0 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, err
		}
		n, err := w.Write(piece)
		total += int64(n)
		p.mu.Lock()
		p.from = (p.from + n) % len(p.buf)
		p.n -= n
		p.stopped = err != nil
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return total, err
		}
	}
}
