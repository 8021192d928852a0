package erofs

import (
	"errors"
	"fmt"
	"io"
)

// Scratch is room for what is not to be in memory: a file of its own that is empty.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// scratchPage is what is read and written of a scratch file as one, scratchPages how many
// of these are in memory. Inodes that stand together in the tree mostly do so here.
const (
	scratchPage  = 8 << 10
	scratchPages = 256
)

// area holds inodes until it is known where in the image they go: in memory or, if they
// are many, in a scratch file.
type area struct {
	size  int64
	mem   []byte // nil: they are in file
	file  Scratch
	pages []areaPage // page n is at n modulo their number, if it is in memory
}

type areaPage struct {
	n     int64 // 1 + which one; 0: none
	dirty bool
	b     []byte
}

// newArea makes room for size bytes, all zero. file may be nil.
func newArea(size int64, file Scratch) *area {
	if file == nil {
		return &area{size: size, mem: make([]byte, size)}
	}
	return &area{size: size, file: file, pages: make([]areaPage, scratchPages)}
}

// write puts b at off.
func (a *area) write(off int64, b []byte) error {
	if a.mem != nil {
		copy(a.mem[off:], b)
		return nil
	}
	return a.each(off, len(b), func(p *areaPage, at int) int {
		p.dirty = true
		n := copy(p.b[at:], b)
		b = b[n:]
		return n
	})
}

// read fills b with what is at off.
func (a *area) read(off int64, b []byte) error {
	if a.mem != nil {
		copy(b, a.mem[off:])
		return nil
	}
	return a.each(off, len(b), func(p *areaPage, at int) int {
		n := copy(b, p.b[at:])
		b = b[n:]
		return n
	})
}

// each calls fn for the pages that have some of n bytes at off. It returns how many of
// them it took.
func (a *area) each(off int64, n int, fn func(p *areaPage, at int) int) error {
	for n > 0 {
		p, err := a.page(off / scratchPage)
		if err != nil {
			return err
		}
		took := fn(p, int(off%scratchPage))
		off, n = off+int64(took), n-took
	}
	return nil
}

// page brings a page into memory.
func (a *area) page(n int64) (*areaPage, error) {
	p := &a.pages[n%int64(len(a.pages))]
	if p.n == n+1 {
		return p, nil
	}
	if err := a.flush(p); err != nil {
		return nil, err
	}
	if p.b == nil {
		p.b = make([]byte, scratchPage)
	}
	p.n = 0
	if err := a.load(n*scratchPage, p.b); err != nil {
		return nil, err
	}
	p.n = n + 1
	return p, nil
}

// load fills b from the file. What was never written is zero.
func (a *area) load(off int64, b []byte) error {
	n, err := a.file.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("erofs: read scratch file: %w", err)
	}
	clear(b[n:])
	return nil
}

func (a *area) flush(p *areaPage) error {
	if !p.dirty {
		return nil
	}
	if _, err := a.file.WriteAt(p.b, (p.n-1)*scratchPage); err != nil {
		return fmt.Errorf("erofs: write scratch file: %w", err)
	}
	p.dirty = false
	return nil
}

// copyTo calls write with all of it, piece by piece.
func (a *area) copyTo(write func(b []byte) error) error {
	if a.mem != nil {
		return write(a.mem)
	}
	for i := range a.pages {
		if err := a.flush(&a.pages[i]); err != nil {
			return err
		}
	}
	a.pages = nil
	b := make([]byte, pieceBytes)
	for off := int64(0); off < a.size; off += int64(len(b)) {
		b = b[:min(int64(len(b)), a.size-off)]
		if err := a.load(off, b); err != nil {
			return err
		}
		if err := write(b); err != nil {
			return err
		}
	}
	return nil
}
