package pack

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
)

// sequencer looks at the chunks in order and puts the new ones into frames.
func (e *encoder) sequencer(ctx context.Context, p *pipes) error {
	defer close(p.frames)
	defer close(p.frameOrder)
	s := sequence{e: e, p: p, next: len(e.packs.frames)}
	for u := range p.unitOrder {
		select {
		case <-u.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.buf, s.take, s.taken = u.buf, takeable(u), false
		for i := range u.chunks {
			if err := s.chunk(ctx, u, &u.chunks[i]); err != nil {
				return err
			}
		}
		e.bufs.put(u.buf)
		p.unitSem.Release(1)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.flush(ctx)
}

// sequence is the sequencer's frame in the making.
type sequence struct {
	e     *encoder
	p     *pipes
	plain []byte
	next  int    // number of the frame that plain becomes
	buf   []byte // of the unit that is looked at
	// take says that buf may become a frame, taken that it did: then the chunks in it
	// need not be copied, or only towards its beginning.
	take, taken bool
	slab        []snapshot.Chunk
}

// slabChunks is how many chunks get their room at once.
const slabChunks = 256

// takeable reports whether u's chunks nearly fill a frame, and can't fill more than
// one: then its buffer is not looked at any more once the frame is sent on.
func takeable(u *unit) bool {
	n := 0
	for i := range u.chunks {
		c := &u.chunks[i]
		if c.kept > 0 {
			return false
		}
		n += c.end - c.start
	}
	return n >= frameBytes/2 && (n <= frameBytes || len(u.chunks) == 1)
}

func (s *sequence) chunk(ctx context.Context, u *unit, c *found) error {
	n := c.end - c.start
	if c.kept > 0 {
		n = c.kept
	}
	if s.e.o.Seen != nil {
		s.e.o.Seen.Add(int64(n))
	}
	if !c.f.hashed {
		s.list(c.f, snapshot.Chunk{Off: c.off, Len: int64(n), ID: c.id})
		s.e.stats.Plain += int64(n)
	}
	if s.e.has(c.id, int64(n)) || c.part != nil && s.e.hasPart(c.id, int64(n), c.part) {
		return nil
	}
	s.e.stats.New += int64(n)
	if len(s.plain) > 0 && len(s.plain)+n > frameBytes {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	content := s.buf[c.start:c.end]
	if c.kept > 0 {
		var err error
		if content, err = s.e.reread(c); err != nil {
			return err
		}
	}
	s.e.add(ChunkRef{ID: c.id, Frame: s.next, Off: uint32(len(s.plain)), Len: uint32(n)})
	switch empty := len(s.plain) == 0; {
	case empty && s.take:
		s.plain, u.buf, s.taken = s.buf[:0], nil, true
	case empty:
		s.plain = s.e.bufs.get(max(n, frameBytes))[:0]
	default:
		s.plain = s.e.bufs.grow(s.plain, n)
	}
	if s.taken && c.start == len(s.plain) {
		s.plain = s.plain[:c.end] // it is there
	} else {
		s.plain = append(s.plain, content...)
	}
	if len(s.plain) >= frameBytes {
		return s.flush(ctx)
	}
	return nil
}

// list notes a chunk of a file. Most files have one: those share their room.
func (s *sequence) list(f *file, c snapshot.Chunk) {
	if f.chunks == nil {
		if len(s.slab) == 0 {
			s.slab = make([]snapshot.Chunk, slabChunks)
		}
		f.chunks, s.slab = s.slab[:0:1], s.slab[1:]
	}
	f.chunks = append(f.chunks, c)
}

// flush sends the frame on.
func (s *sequence) flush(ctx context.Context) error {
	if len(s.plain) == 0 {
		return nil
	}
	if err := s.p.frameSem.Acquire(ctx, 1); err != nil {
		return err
	}
	f := &frame{plain: s.plain, done: make(chan struct{})}
	s.p.frames <- f
	s.p.frameOrder <- f
	s.plain, s.next = nil, s.next+1
	return nil
}
