package erofs

import (
	"fmt"
	"io"
)

// bufferBytes is written at once.
const bufferBytes = 1 << 20

// out writes an image from some offset on, in one sweep.
type out struct {
	w   io.WriterAt
	off int64 // of the first byte in buf
	buf []byte
}

func (o *out) pos() int64 { return o.off + int64(len(o.buf)) }

func (o *out) write(b []byte) error {
	if len(o.buf)+len(b) > bufferBytes {
		if err := o.flush(); err != nil {
			return err
		}
		if len(b) >= bufferBytes {
			return o.send(b)
		}
	}
	o.buf = append(o.buf, b...)
	return nil
}

// align pads with zeros up to a multiple of n.
func (o *out) align(n int64) error {
	var zero [1 << maxBlockBits]byte
	return o.write(zero[:roundUp(o.pos(), n)-o.pos()])
}

func (o *out) flush() error {
	err := o.send(o.buf)
	o.buf = o.buf[:0]
	return err
}

func (o *out) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := o.w.WriteAt(b, o.off); err != nil {
		return fmt.Errorf("erofs: write image: %w", err)
	}
	o.off += int64(len(b))
	return nil
}
