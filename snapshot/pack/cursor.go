package pack

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/roost-ci/roost/snapshot"
)

// cursor reads a body that is wholly in memory, or comes from src. The first mistake
// that it finds stays in err, and everything read after it is zero, so callers check
// once per record. Loops over a declared count must go through count, which bounds it
// by the bytes that are left.
type cursor struct {
	b   []byte
	off int
	err error

	src  io.Reader // of what is behind b
	rest int       // bytes that are to come from src
	gone int       // bytes before b
}

// window is how much of a body that comes from a reader is in memory, but for a
// record that takes more.
const window = 256 << 10

func (c *cursor) left() int { return len(c.b) - c.off + c.rest }

// need sees that the next n bytes are in b, or all that are left.
func (c *cursor) need(n int) {
	if c.rest > 0 && len(c.b)-c.off < n {
		c.fill(n)
	}
}

func (c *cursor) fill(n int) {
	c.gone += c.off
	if cap(c.b) < n {
		c.b = append(make([]byte, 0, max(n, window)), c.b[c.off:]...)
	} else {
		c.b = c.b[:copy(c.b, c.b[c.off:])]
	}
	c.off = 0
	had := len(c.b)
	want := min(n-had, c.rest)
	got, err := io.ReadAtLeast(c.src, c.b[had:min(cap(c.b), had+c.rest)], want)
	c.b, c.rest = c.b[:had+got], c.rest-got
	if err != nil {
		c.rest = 0
		if c.err == nil {
			c.err = &readError{noEOF(err)}
		}
	}
}

// readError is that of a reader, which says nothing about what it reads.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// fail notes the first mistake, with its place.
func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("at byte %d: %s", c.gone+c.off, fmt.Sprintf(format, args...))
	}
}

func (c *cursor) byte() byte {
	if c.err != nil {
		return 0
	}
	c.need(1)
	if c.off == len(c.b) {
		c.fail("cut short")
		return 0
	}
	v := c.b[c.off]
	c.off++
	return v
}

// uvarint reads a number of at most limit in its shortest form; a longer form of
// the same number would give one tree two encodings.
func (c *cursor) uvarint(what string, limit uint64) uint64 {
	if c.err != nil {
		return 0
	}
	c.need(binary.MaxVarintLen64)
	v, n := binary.Uvarint(c.b[c.off:])
	switch {
	case c.err != nil:
		return 0
	case n == 0:
		c.fail("%s: cut short", what)
		return 0
	case n < 0:
		c.fail("%s: does not fit in 64 bits", what)
		return 0
	case n > 1 && c.b[c.off+n-1] == 0:
		c.fail("%s: not in its shortest form", what)
		return 0
	case v > limit:
		c.fail("%s is %d, more than %d", what, v, limit)
		return 0
	}
	c.off += n
	return v
}

// svarint reads a signed number: 0, -1, 1, -2, ... are stored as 0, 1, 2, 3, ...
func (c *cursor) svarint(what string) int64 {
	u := c.uvarint(what, math.MaxUint64)
	return int64(u>>1) ^ -int64(u&1)
}

// count reads how many records follow, each of at least size bytes.
func (c *cursor) count(what string, size int) int {
	return int(c.uvarint(what, uint64(c.left()/size)))
}

// bytes returns the next n bytes, which are part of the body and good until the next
// call.
func (c *cursor) bytes(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > c.left() {
		c.fail("cut short")
		return nil
	}
	if c.need(n); c.err != nil {
		return nil
	}
	v := c.b[c.off : c.off+n : c.off+n]
	c.off += n
	return v
}

func (c *cursor) digest() (d snapshot.Digest) {
	copy(d[:], c.bytes(len(d)))
	return d
}

// end checks that nothing is left.
func (c *cursor) end() error {
	if c.err == nil && c.left() > 0 {
		c.fail("%d bytes too many", c.left())
	}
	return c.err
}

func appendSvarint(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v)<<1^uint64(v>>63))
}
