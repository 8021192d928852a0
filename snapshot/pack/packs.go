package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// A pack file. Where its frames are and how they are stored, the index says.
//
//	0         7         8
//	+---------+---------+-------+-------+- ... -+
//	| RSTPACK | version | frame | frame | frame |
//	|         | 1       |       |       |       |
//	+---------+---------+-------+-------+- ... -+
const (
	packMagic = "RSTPACK"
	// packV1 is the first: frames with nothing between them.
	packV1 = 1
	// packTarget is the size at which a pack is closed. With the largest frame it
	// ends below 16 MiB.
	packTarget = 8 << 20
	// committers is how many packs are synced or read back at a time: one can be
	// read while the disk writes the other.
	committers = 2
	// readBackBytes is how much of a pack is read back at once.
	readBackBytes = 256 << 10
)

// packWriter puts frames into packs. One goroutine adds, others commit.
type packWriter struct {
	dir, tmp string
	discard  bool
	list     []Pack
	frames   []Frame
	stored   int64
	cur      *openPack
	closed   chan *openPack
}

// openPack is a pack on its way.
type openPack struct {
	f    *durable.File // nil when packs are only counted
	h    hash.Hash
	crc  uint32 // of what was written, for reading it back
	size int64
	pack Pack
}

// crcTable is CRC-32C, for which processors have an instruction.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

func (w *packWriter) add(ctx context.Context, f *frame) error {
	quiet.Step(ctx)
	if w.cur == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	w.frames = append(w.frames, Frame{
		Pack: len(w.list), Off: w.cur.size,
		Stored: uint32(len(f.stored)), Plain: uint32(len(f.plain)), Codec: f.codec,
	})
	if err := w.cur.write(f.stored); err != nil {
		return err
	}
	if w.cur.size >= packTarget {
		return w.finish(ctx)
	}
	return nil
}

func (w *packWriter) begin() error {
	w.cur = &openPack{h: sha256.New()}
	if !w.discard {
		f, err := durable.Create(w.tmp)
		if err != nil {
			w.cur = nil
			return fmt.Errorf("pack: %w", err)
		}
		w.cur.f = f
	}
	return w.cur.write(append([]byte(packMagic), packV1))
}

func (p *openPack) write(b []byte) error {
	p.h.Write(b)
	p.size += int64(len(b))
	if p.f == nil {
		return nil
	}
	p.crc = crc32.Update(p.crc, crcTable, b)
	if _, err := p.f.Write(b); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	return nil
}

// finish closes the current pack and hands it to the committer.
func (w *packWriter) finish(ctx context.Context) error {
	if w.cur == nil {
		return nil
	}
	p := w.cur
	p.pack = Pack{Bytes: p.size, Own: true}
	p.h.Sum(p.pack.Digest[:0])
	w.list = append(w.list, p.pack)
	w.stored += p.size
	select {
	case w.closed <- p:
		w.cur = nil
		return nil
	case <-ctx.Done():
		return ctx.Err() // abort drops it
	}
}

// committer gives packs their names.
func (w *packWriter) committer(ctx context.Context) error {
	buf := make([]byte, readBackBytes)
	for p := range w.closed {
		if err := ctx.Err(); err != nil {
			p.abort()
			return err
		}
		if err := w.commit(p, buf); err != nil {
			return err
		}
	}
	return nil
}

// commit makes the pack durable and reads it back. Nothing refers to it before
// that; what reads back wrong is removed again. buf is for reading.
func (w *packWriter) commit(p *openPack, buf []byte) error {
	if p.f == nil {
		return nil
	}
	defer p.f.Abort()
	name := filepath.Join(w.dir, p.pack.Digest.String())
	if err := p.f.Commit(name); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	fail.Point("pack.committed")
	if err := p.readBack(name, buf); err != nil {
		os.Remove(name) //nolint:errcheck // the first error is the one to tell
		return err
	}
	fail.Point("pack.verified")
	return nil
}

// readBack checks that the file of that name is what was written: as long, and with
// the same CRC-32C. The digest was computed of the very bytes that were handed to
// write, so this is about what went wrong behind that, by accident; who could change
// the file on purpose could do so later as well, and every reader checks each chunk.
//
// It sees what the kernel has of it, mostly from memory: dropping that first, so
// that the disk must say it, made encoding of incompressible data up to twice as
// slow, and what the disk says later is checked at each later read anyway.
func (p *openPack) readBack(name string, buf []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	var crc uint32
	var size int64
	for {
		n, err := f.Read(buf)
		crc, size = crc32.Update(crc, crcTable, buf[:n]), size+int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("pack: read back: %w", err)
		}
	}
	if size != p.size || crc != p.crc {
		return &snapshot.CorruptError{
			What: "pack", Name: p.pack.Digest.String(),
			Why: fmt.Sprintf("reads back as %d bytes with checksum %08x, %d with %08x were written", size, crc, p.size, p.crc),
		}
	}
	return nil
}

func (p *openPack) abort() {
	if p.f != nil {
		p.f.Abort()
	}
}

// abort drops what was not committed. Nobody adds or commits any more.
func (w *packWriter) abort() {
	if w.cur != nil {
		w.cur.abort()
	}
	if w.closed == nil {
		return
	}
	for p := range w.closed { // the writer closed it before run returned
		p.abort()
	}
}
