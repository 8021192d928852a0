package pack

import (
	"context"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// The stages of Encode. What must be in order has one goroutine; what costs time
// has many. A unit or a frame goes both into a queue that any worker takes from and
// into one that keeps the order, and the end of the latter waits for it to be done.
//
//	planner -> units  -> readers (N): read small files, find chunks, compute ids
//	        -> (order) -> sequencer: drop what is known, fill frames
//	                      -> frames  -> compressors (N)
//	                      -> (order) -> writer: packs -> committer: sync, verify
//
// Large files are cut by the planner, since one boundary follows from the other: it
// compares them with what the base has, on all cores, and cuts what is left.
//
// At most window units and window frames exist at a time; who wants one more waits.
// Queues are as long as that, so sending to them never blocks, and memory is
// bounded.

// frameBytes is how much is compressed as one: larger compresses a little better
// and makes reading one small file dearer.
const frameBytes = 1 << 20

// unitPieces bounds a unit of tiny files, so that several readers share them.
const unitPieces = 128

// unit is what a reader works on at once: pieces of files to read, up to frameBytes
// of small ones or one large one; or a part of a large file, cut already.
type unit struct {
	pieces []piece
	bytes  int
	buf    []byte // the pieces, back to back
	chunks []found
	done   chan struct{} // closed when buf and chunks are there
}

// maxKept bounds the chunks of a unit, so that it stays small where nothing changed.
const maxKept = 4096

// piece is a part of one file.
type piece struct {
	f    *file
	open *openFile // nil: the reader opens the file for itself
	off  int64
	n    int
	want snapshot.Digest // of a hashed file: the one chunk that this is
}

// found is a chunk in a unit.
type found struct {
	f          *file
	off        int64 // in the file
	start, end int   // in the unit's buf
	id         snapshot.Digest
	kept       int // not 0: the base's chunk of so many bytes; it is not in buf
	part       *partOf
}

// frame is what a compressor compresses.
type frame struct {
	plain  []byte
	stored []byte
	codec  byte
	done   chan struct{} // closed when stored is there
}

// pipes are the queues between the stages.
type pipes struct {
	units, unitOrder   chan *unit
	frames, frameOrder chan *frame
	unitSem, frameSem  *semaphore.Weighted
}

func (e *encoder) run(ctx context.Context) error {
	window := e.o.Workers + 1
	p := &pipes{
		units: make(chan *unit, window), unitOrder: make(chan *unit, window),
		frames: make(chan *frame, window), frameOrder: make(chan *frame, window),
		unitSem: semaphore.NewWeighted(int64(window)), frameSem: semaphore.NewWeighted(int64(window)),
	}
	e.packs.closed = make(chan *openPack, committers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.planner(ctx, p) })
	for range e.o.Workers {
		g.Go(func() error { yieldTo(e.o.Nice); return e.reader(ctx, p) })
		g.Go(func() error { yieldTo(e.o.Nice); return e.compressor(ctx, p) })
	}
	g.Go(func() error { return e.sequencer(ctx, p) })
	g.Go(func() error { return e.writer(ctx, p) })
	for range committers {
		g.Go(func() error { return e.packs.committer(ctx) })
	}
	return g.Wait()
}

func (e *encoder) compressor(ctx context.Context, p *pipes) error {
	for f := range p.frames {
		quiet.Step(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		buf := e.bufs.get(len(f.plain))
		if f.stored, f.codec = encodeFrame(buf[:0], f.plain); f.codec == CodecRaw {
			e.bufs.put(buf)
		}
		close(f.done)
	}
	return nil
}

// writer appends the frames to packs, in order.
func (e *encoder) writer(ctx context.Context, p *pipes) error {
	defer close(e.packs.closed)
	for f := range p.frameOrder {
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := e.packs.add(ctx, f); err != nil {
			return err
		}
		e.bufs.put(f.stored)
		if f.codec != CodecRaw { // else they are one
			e.bufs.put(f.plain)
		}
		p.frameSem.Release(1)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.more {
		return nil // the next part goes on with the pack
	}
	return e.packs.finish(ctx)
}
