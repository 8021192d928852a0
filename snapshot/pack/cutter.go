package pack

import "context"

// cutterBytes is the room of a cutter's buffer: what one unit is made of, what is
// not cut yet, and one block.
const cutterBytes = 2 << 20

// cutter cuts parts of one large file, in order. It reads each byte once, and
// where the file system knows a hole it does not read.
type cutter struct {
	s    *source
	bufs *buffers
	// flush takes what was cut so far. The buffer is the callee's from then on.
	flush func(buf []byte, chunks []found) error

	buf    []byte // what lies before next is in chunks, or is zeros
	at     int64  // of buf[0] in the file; without meaning before next
	next   int64  // what follows, up to the end of buf, is a run not yet cut
	used   int    // bytes in chunks
	chunks []found
}

// region cuts [from, to), which is behind what was cut before.
func (c *cutter) region(ctx context.Context, from, to int64) error {
	if err := c.jump(from); err != nil {
		return err
	}
	for pos := from; pos < to; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, ok, err := c.s.nextData(pos)
		if err != nil {
			return err
		}
		if !ok {
			data = to
		}
		if data = min(max(pos, data-data%cellBytes), to); data > pos {
			if err := c.jump(data); err != nil {
				return err
			}
			pos = data
			continue
		}
		n := min(blockBytes-pos%blockBytes, to-pos)
		if err := c.block(pos, int(n)); err != nil {
			return err
		}
		pos += n
	}
	return c.jump(to)
}

// keep takes a chunk as it is; the region before it was cut.
func (c *cutter) keep(k keep) error {
	if len(c.chunks) >= maxKept {
		if err := c.hand(); err != nil {
			return err
		}
	}
	c.chunks = append(c.chunks, found{off: k.Off, id: k.ID, kept: int(k.Len), part: k.part})
	return nil
}

// jump ends the run and goes on at pos.
func (c *cutter) jump(pos int64) error {
	if err := c.cut(c.at+int64(len(c.buf)), true); err != nil {
		return err
	}
	c.at, c.next = pos-int64(len(c.buf)), pos
	return nil
}

// block reads n bytes at pos, where the last ones ended, and cuts what can be cut.
func (c *cutter) block(pos int64, n int) error {
	if len(c.buf)+n > cutterBytes {
		if err := c.hand(); err != nil {
			return err
		}
	}
	if c.buf == nil {
		c.buf = c.bufs.get(cutterBytes)[:0]
		c.at = pos
	}
	old := len(c.buf)
	c.buf = c.buf[:old+n]
	if err := c.s.readAt(c.buf[old:], pos); err != nil {
		return err
	}
	for end := pos + int64(n); pos < end; {
		cell := min(cellBytes-pos%cellBytes, end-pos)
		if isZero(c.buf[pos-c.at:][:cell]) {
			if err := c.cut(pos, true); err != nil {
				return err
			}
			c.next = pos + cell
		}
		pos += cell
	}
	return c.cut(pos, false)
}

// cut cuts the run up to end; last says that it goes no further.
func (c *cutter) cut(end int64, last bool) error {
	for left := end - c.next; left >= lookAhead || last && left > 0; left = end - c.next {
		n := nextCut(c.buf[c.next-c.at : end-c.at])
		if c.used > 0 && c.used+n > frameBytes {
			if err := c.hand(); err != nil {
				return err
			}
		}
		start := int(c.next - c.at)
		c.chunks = append(c.chunks, found{off: c.next, start: start, end: start + n})
		c.used += n
		c.next += int64(n)
	}
	return nil
}

// hand flushes what was cut and keeps the rest.
func (c *cutter) hand() error {
	done := c.next - c.at
	buf := c.buf
	if rest := buf[done:]; len(rest) > 0 {
		c.buf = append(c.bufs.get(cutterBytes)[:0], rest...)
	} else {
		c.buf = nil
	}
	c.at = c.next
	chunks := c.chunks
	c.chunks, c.used = nil, 0
	return c.flush(buf[:done], chunks)
}

// end flushes what is left.
func (c *cutter) end() error {
	if len(c.chunks) == 0 {
		return nil
	}
	return c.hand()
}
