package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/snapshot"
)

// ExtractOptions says where packs come from.
type ExtractOptions struct {
	Key []byte // of the domain that made the layer
	// Workers is how many goroutines decompress and write. 0 means one per core.
	Workers int
	// Open returns n bytes of a pack from off. It is called by several goroutines.
	// What it returns is closed after at most n bytes were read.
	Open func(ctx context.Context, pack snapshot.Digest, off, n int64) (io.ReadCloser, error)
	// Previous returns what the base has at a path, or nil. What that holds already
	// is read from its Source and not fetched, so of a large file that changed a
	// little only what is new. May be nil; what can't be read there is fetched. It is
	// called by one goroutine.
	Previous func(path string) *snapshot.Entry
	// Base goes through all that the base has. It is called, once at most, where n chunks
	// are needed that an ancestor stored and that Previous does not have: of what was
	// renamed, say, which the base then has at another path. Entries are those of Previous,
	// each good until fn returns. Without a look at all of them the rest is fetched. May be
	// nil.
	Base func(n int, fn func(e *snapshot.Entry) error) error
	// Pieces, if set, is called instead of write, with all that is to be written of a
	// frame; Change is the index of a change, and Bytes are only good during the call.
	Pieces func(pieces ...snapshot.Piece) error
	// Done, if set, is called when all content of change i was written, by the
	// goroutine that wrote the last of it; never for a file that has none. An error
	// ends the extraction.
	Done func(i int) error
}

// fetchers is how many ranges are open at once: enough to hide the wait for the
// next one behind the bytes of the others.
const fetchers = 4

// Extract calls write with all content of the files in ix.Changes: write(i, off, p)
// for plain bytes p at off of the file of change i, from several goroutines and in
// no order. p is only good during the call. Zeros may be left out: files must be
// empty and as long as their Size before. Of the names of one hard-linked file
// (equal Link) only the first one in ix.Changes is written.
//
// Each frame is fetched and decompressed once, however many files need it;
// neighbouring frames of a pack are fetched as one range. A chunk is written only
// after its keyed digest was found right; what is wrong is a
// *snapshot.CorruptError. Memory is bounded by about 8 MiB per worker beside the
// index. An error of write or Open ends it and is returned as it is, wrapped.
func Extract(ctx context.Context, ix *Index, o ExtractOptions, write func(i int, off int64, p []byte) error) error {
	if len(o.Key) == 0 {
		return errors.New("extract: no domain key")
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	ids, err := checkTables(ix)
	if err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	p, err := planExtract(ix, ids)
	if err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	x := &extractor{
		ix: ix, o: o, p: p, write: write, left: p.countPlaces(o.Done != nil),
		free: make(chan []byte, fetchers+o.Workers), ready: make(chan fetched, o.Workers),
	}
	for range cap(x.free) {
		x.free <- nil
	}
	if err := x.local(ctx); err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	if err := x.run(ctx, p.ranges()); err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	return nil
}

// extractor is one run of Extract. free holds the buffers for stored frames, nil
// ones to be allocated: their number is what bounds memory.
type extractor struct {
	ix    *Index
	o     ExtractOptions
	p     *extractPlan
	write func(i int, off int64, p []byte) error
	prevs map[int32]*snapshot.Entry // what the base has at the paths of changes
	left  []atomic.Int32            // places to write, by change; nil if nobody asks
	free  chan []byte
	ready chan fetched
}

// fetched is a frame as it came.
type fetched struct {
	frame  int
	stored []byte
}

func (x *extractor) run(ctx context.Context, ranges []span) error {
	g, ctx := errgroup.WithContext(ctx)
	todo := make(chan span)
	g.Go(func() error {
		defer close(todo)
		for _, r := range ranges {
			select {
			case todo <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	g.Go(func() error {
		defer close(x.ready)
		g, ctx := errgroup.WithContext(ctx)
		for range min(fetchers, len(ranges)) {
			g.Go(func() error {
				for r := range todo {
					if err := x.fetch(ctx, r); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	})
	for range x.o.Workers {
		g.Go(func() error { return x.worker(ctx) })
	}
	return g.Wait()
}

// fetch reads a range and hands its frames on.
func (x *extractor) fetch(ctx context.Context, r span) (err error) {
	pack := x.ix.Packs[x.ix.Frames[r.frames[0]].Pack].Digest
	body, err := x.o.Open(ctx, pack, r.off, r.end-r.off)
	if err != nil {
		return fmt.Errorf("pack %s: %w", pack, err)
	}
	defer body.Close() //nolint:errcheck // only read from
	at := r.off
	for _, i := range r.frames {
		f := &x.ix.Frames[i]
		if _, err := io.CopyN(io.Discard, body, f.Off-at); err != nil {
			return fmt.Errorf("pack %s at %d: %w", pack, at, noEOF(err))
		}
		var buf []byte
		select {
		case buf = <-x.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		if buf = buf[:cap(buf)]; len(buf) < int(f.Stored) {
			buf = make([]byte, roundUp(int(f.Stored)))
		}
		buf = buf[:f.Stored]
		if _, err := io.ReadFull(body, buf); err != nil {
			return fmt.Errorf("pack %s at %d: %w", pack, f.Off, noEOF(err))
		}
		select {
		case x.ready <- fetched{i, buf}:
		case <-ctx.Done():
			return ctx.Err()
		}
		at = f.Off + int64(f.Stored)
	}
	return nil
}

// noEOF makes an end that came too soon look like one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// worker decompresses frames, checks their chunks and writes them.
func (x *extractor) worker(ctx context.Context) error {
	ids := newKeyed(x.o.Key)
	var buf []byte
	var w pieces
	for f := range x.ready {
		if err := ctx.Err(); err != nil {
			return err
		}
		fr := &x.ix.Frames[f.frame]
		plain := f.stored
		if fr.Codec == CodecZstd {
			if cap(buf) < int(fr.Plain) {
				buf = make([]byte, roundUp(int(fr.Plain)))
			}
			var err error
			// The capacity is the limit, so it must be the exact size.
			if plain, err = decompress(buf[:0:fr.Plain], f.stored); err != nil {
				return x.corrupt(fr, err.Error())
			}
		}
		uses := x.p.uses[f.frame]
		if err := x.check(fr, uses, plain, ids); err != nil {
			return err
		}
		if err := x.putAll(uses, plain, &w); err != nil {
			return err
		}
		x.free <- f.stored
	}
	return nil
}

func (x *extractor) corrupt(f *Frame, why string) error {
	return &snapshot.CorruptError{
		What: "pack", Name: x.ix.Packs[f.Pack].Digest.String(),
		Why: fmt.Sprintf("frame of %d bytes at %d: %s", f.Stored, f.Off, why),
	}
}

// check checks the chunks that are needed of a frame. Nothing of it is written before.
func (x *extractor) check(f *Frame, uses []use, plain []byte, ids keyed) (err error) {
	bytes := func(i int) []byte {
		c := &x.ix.Chunks[uses[i].chunk]
		return plain[c.Off:][:c.Len]
	}
	ids.ids(len(uses), bytes, func(i int, id snapshot.Digest) {
		if want := x.ix.Chunks[uses[i].chunk].ID; id != want && err == nil {
			err = x.corrupt(f, fmt.Sprintf("chunk %s: digest does not match", want))
		}
	})
	return err
}

// pieces are what a worker writes as one; they are used again.
type pieces []snapshot.Piece

// putAll writes the chunks that are needed of a frame to every place that needs them.
func (x *extractor) putAll(uses []use, plain []byte, w *pieces) error {
	if x.o.Pieces == nil {
		for _, u := range uses {
			c := &x.ix.Chunks[u.chunk]
			if err := x.put(u, plain[c.Off:][:c.Len]); err != nil {
				return err
			}
		}
		return nil
	}
	list := (*w)[:0]
	for _, u := range uses {
		c := &x.ix.Chunks[u.chunk]
		p := plain[c.Off:][:c.Len]
		for _, at := range x.p.of(u) {
			eachRun(p, func(start, end int) error { //nolint:errcheck // it has none
				list = append(list, snapshot.Piece{Change: int(at.change), Off: at.off + int64(start), Bytes: p[start:end]})
				return nil
			})
		}
	}
	*w = list
	if err := x.o.Pieces(list...); err != nil {
		return err
	}
	for _, u := range uses {
		for _, at := range x.p.of(u) {
			if err := x.done(at.change); err != nil {
				return err
			}
		}
	}
	return nil
}

// put writes a chunk to every place that needs it.
func (x *extractor) put(u use, p []byte) error {
	for _, at := range x.p.of(u) {
		err := eachRun(p, func(start, end int) error {
			if x.o.Pieces != nil {
				return x.o.Pieces(snapshot.Piece{Change: int(at.change), Off: at.off + int64(start), Bytes: p[start:end]})
			}
			return x.write(int(at.change), at.off+int64(start), p[start:end])
		})
		if err != nil {
			return fmt.Errorf("%q: %w", x.ix.Changes[at.change].Entry.Path, err)
		}
		if err := x.done(at.change); err != nil {
			return err
		}
	}
	return nil
}

// done counts one place of a change as written.
func (x *extractor) done(change int32) error {
	if x.left == nil || x.left[change].Add(-1) > 0 {
		return nil
	}
	if err := x.o.Done(int(change)); err != nil {
		return fmt.Errorf("%q: %w", x.ix.Changes[change].Entry.Path, err)
	}
	return nil
}

// eachRun calls f for what is left of p without its pages of zeros, so that sparse
// files stay sparse at a finer grain than chunks have.
func eachRun(p []byte, f func(start, end int) error) error {
	start := -1
	for at := 0; at < len(p); at += pageBytes {
		zero := isZero(p[at:min(at+pageBytes, len(p))])
		if zero && start >= 0 {
			if err := f(start, at); err != nil {
				return err
			}
			start = -1
		} else if !zero && start < 0 {
			start = at
		}
	}
	if start < 0 {
		return nil
	}
	return f(start, len(p))
}
