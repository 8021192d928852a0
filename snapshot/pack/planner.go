package pack

import "context"

// planner makes units of the files, in order.
func (e *encoder) planner(ctx context.Context, p *pipes) error {
	defer close(p.units)
	defer close(p.unitOrder)
	l := planning{e: e, p: p, small: &unit{}}
	for i := range e.files {
		f := &e.files[i]
		var err error
		switch {
		case f.hashed:
			err = l.hashed(ctx, f)
		case f.entry.Size < largeBytes:
			err = l.piece(ctx, piece{f: f, n: int(f.entry.Size)})
		default:
			err = l.large(ctx, f)
		}
		if err != nil {
			return err
		}
	}
	return l.flush(ctx)
}

// planning is the planner's work.
type planning struct {
	e     *encoder
	p     *pipes
	small *unit // in the making, of pieces
}

// send hands a unit on.
func (l *planning) send(ctx context.Context, u *unit) error {
	if err := l.p.unitSem.Acquire(ctx, 1); err != nil {
		return err
	}
	u.done = make(chan struct{})
	l.p.units <- u
	l.p.unitOrder <- u
	return nil
}

func (l *planning) flush(ctx context.Context) error {
	u := l.small
	if len(u.pieces) == 0 {
		return nil
	}
	l.small = &unit{}
	return l.send(ctx, u)
}

func (l *planning) piece(ctx context.Context, pc piece) error {
	if u := l.small; len(u.pieces) == unitPieces || u.bytes > 0 && u.bytes+pc.n > frameBytes {
		if err := l.flush(ctx); err != nil {
			return err
		}
	}
	l.small.pieces, l.small.bytes = append(l.small.pieces, pc), l.small.bytes+pc.n
	return nil
}

// hashed lists the chunks that must be read.
func (l *planning) hashed(ctx context.Context, f *file) error {
	if f.more == nil || len(f.more.todo) == 0 {
		return nil
	}
	open := &l.e.open
	of, err := open.add(f)
	if err != nil {
		return err
	}
	defer open.release(of) // the planner's own hold
	for _, c := range f.more.todo {
		if err := l.piece(ctx, piece{f: f, open: open.hold(of), off: c.Off, n: int(c.Len), want: c.ID}); err != nil {
			return err
		}
	}
	return nil
}

// large cuts a file: what is as in the base stays as it was cut there, and what is
// between is cut by its content.
func (l *planning) large(ctx context.Context, f *file) error {
	if err := l.flush(ctx); err != nil {
		return err
	}
	of, err := l.e.open.add(f)
	if err != nil {
		return err
	}
	defer l.e.open.release(of)
	var kept []keep
	more := f.with()
	if more.prev != nil {
		if kept, err = l.e.unchangedChunks(ctx, of.source, more.prev); err != nil {
			return err
		}
	}
	c := cutter{s: of.source, bufs: &l.e.bufs}
	c.flush = func(buf []byte, chunks []found) error {
		if len(chunks) == 0 {
			l.e.bufs.put(buf)
			return nil
		}
		for i := range chunks {
			chunks[i].f = f
		}
		return l.send(ctx, &unit{buf: buf, chunks: chunks})
	}
	var pos int64
	for _, k := range kept {
		if err := c.region(ctx, pos, k.Off); err != nil {
			return err
		}
		if err := c.keep(k); err != nil {
			return err
		}
		pos = k.Off + k.Len
	}
	if err := c.region(ctx, pos, f.entry.Size); err != nil {
		return err
	}
	if err := of.source.unchanged(); err != nil {
		return err
	}
	return c.end()
}
