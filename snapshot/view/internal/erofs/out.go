package erofs

import (
	"context"
	"fmt"
	"io"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// bufferBytes is gathered before it is written, pieceBytes is what one call writes: new
// pages may take milliseconds.
const (
	bufferBytes = 1 << 20
	pieceBytes  = durable.MaxWrite
)

// out writes an image from some offset on, in one sweep.
type out struct {
	ctx context.Context //nolint:containedctx // of one Write, for its pace
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
	for len(b) > 0 {
		quiet.Step(o.ctx)
		n, err := o.w.WriteAt(b[:min(len(b), pieceBytes)], o.off)
		if err != nil {
			return fmt.Errorf("erofs: write image: %w", err)
		}
		o.off += int64(n)
		b = b[n:]
	}
	return nil
}
