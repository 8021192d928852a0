package pack

import (
	"context"
	"fmt"
	"sync"

	"github.com/roost-ci/roost/snapshot"
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
	s, err := openSource(f.source, f.size)
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
	k := newKeyed(e.o.Key)
	for u := range p.units {
		if err := ctx.Err(); err != nil {
			return err
		}
		if u.pieces == nil { // cut by the planner
			for i := range u.chunks {
				if c := &u.chunks[i]; c.kept == 0 {
					c.id = k.id(u.buf[c.start:c.end])
				}
			}
			close(u.done)
			continue
		}
		u.buf = e.bufs.get(u.bytes)
		at := 0
		for i := range u.pieces {
			if err := e.read(u, at, &u.pieces[i], k); err != nil {
				return err
			}
			at += u.pieces[i].n
		}
		close(u.done)
	}
	return nil
}

// read reads one piece into the unit's buffer and finds its chunks.
func (e *encoder) read(u *unit, at int, pc *piece, k keyed) error {
	var s *source
	if pc.open != nil {
		s = pc.open.source
		defer e.open.release(pc.open)
	} else {
		var err error
		if s, err = openSource(pc.f.source, pc.f.size); err != nil {
			return err
		}
		defer s.Close()
	}
	buf := u.buf[at : at+pc.n]
	if err := s.readAt(buf, pc.off); err != nil {
		return err
	}
	if err := s.unchanged(); err != nil {
		return err
	}
	if pc.f.hashed {
		id := k.id(buf)
		if id != pc.want {
			return &snapshot.CorruptError{
				What: "file", Name: pc.f.source.path,
				Why: fmt.Sprintf("%d bytes at %d are not what its manifest says", pc.n, pc.off),
			}
		}
		u.chunks = append(u.chunks, found{f: pc.f, off: pc.off, start: at, end: at + pc.n, id: id})
		return nil
	}
	cutSmall(buf, func(start, end int) {
		u.chunks = append(u.chunks, found{
			f: pc.f, off: pc.off + int64(start),
			start: at + start, end: at + end, id: k.id(buf[start:end]),
		})
	})
	return nil
}
