package pack

import (
	"context"
	"fmt"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// openFile is a large file that several readers read from.
type openFile struct {
	source *source
	holds  int // guarded by openFiles.mu
}

// openFiles closes each of them after its last piece, and the rest when an error
// ends it all.
type openFiles struct {
	mu    sync.Mutex
	files map[*openFile]struct{} // guarded by mu
}

func (o *openFiles) add(f *file) (*openFile, error) {
	s, err := openSource(f.source(), f.entry.Size)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.files == nil {
		o.files = map[*openFile]struct{}{}
	}
	of := &openFile{source: s, holds: 1}
	o.files[of] = struct{}{}
	return of, nil
}

func (o *openFiles) hold(of *openFile) *openFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	of.holds++
	return of
}

func (o *openFiles) release(of *openFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if of.holds--; of.holds == 0 {
		delete(o.files, of)
		of.source.Close()
	}
}

// close closes what is left. Nobody reads any more.
func (o *openFiles) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for of := range o.files {
		of.source.Close()
	}
	o.files = nil
}

func (e *encoder) reader(ctx context.Context, p *pipes) error {
	r := &reading{e: e, ids: newKeyed(e.o.Key), small: newSmallReader(e.o.Now())}
	defer r.small.close()
	for u := range p.units {
		quiet.Step(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		if u.pieces != nil { // else it was cut by the planner
			u.buf = e.bufs.get(u.bytes)
			at := 0
			for i := range u.pieces {
				if err := r.read(u, at, &u.pieces[i]); err != nil {
					return err
				}
				at += u.pieces[i].n
			}
		}
		if err := r.identify(u); err != nil {
			return err
		}
		close(u.done)
	}
	return nil
}

// reading is a reader's work.
type reading struct {
	e     *encoder
	ids   keyed
	small *smallReader
	todo  []int // chunks of a unit to be identified
}

// read reads one piece into the unit's buffer and finds its chunks.
func (r *reading) read(u *unit, at int, pc *piece) error {
	buf := u.buf[at : at+pc.n]
	if err := r.fill(pc, buf); err != nil {
		return err
	}
	if pc.f.hashed {
		u.chunks = append(u.chunks, found{f: pc.f, off: pc.off, start: at, end: at + pc.n, id: pc.want})
		return nil
	}
	cutSmall(buf, func(start, end int) {
		u.chunks = append(u.chunks, found{f: pc.f, off: pc.off + int64(start), start: at + start, end: at + end})
	})
	return nil
}

func (r *reading) fill(pc *piece, buf []byte) error {
	if pc.open == nil {
		return r.small.read(pc.f.source(), buf)
	}
	s := pc.open.source
	defer r.e.open.release(pc.open)
	if err := s.readAt(buf, pc.off); err != nil {
		return err
	}
	return s.unchanged()
}

// readSlowly fills p with the whole content at w and looks at it before and after.
func readSlowly(w where, p []byte) error {
	s, err := openSource(w, int64(len(p)))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.readAt(p, 0); err != nil {
		return err
	}
	return s.unchanged()
}

// identify computes the ids of the chunks that were read. Those that should have
// one must have that.
func (r *reading) identify(u *unit) (err error) {
	r.todo = r.todo[:0]
	for i := range u.chunks {
		if u.chunks[i].kept == 0 {
			r.todo = append(r.todo, i)
		}
	}
	bytes := func(i int) []byte {
		c := &u.chunks[r.todo[i]]
		return u.buf[c.start:c.end]
	}
	r.ids.ids(len(r.todo), bytes, func(i int, id snapshot.Digest) {
		c := &u.chunks[r.todo[i]]
		if c.f.hashed && c.id != id && err == nil {
			err = &snapshot.CorruptError{
				What: "file", Name: c.f.source().path,
				Why: fmt.Sprintf("%d bytes at %d are not what its manifest says", c.end-c.start, c.off),
			}
		}
		c.id = id
	})
	return err
}
