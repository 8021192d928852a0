package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Span is a run of bytes in a file.
type Span struct{ Off, Len int64 }

// Examine reads a file that is hashed, from its Source, and returns the runs of it
// that are not what its chunks say: whole chunks, and what is in a hole. A run that
// can't be read is one of them. A source that is gone, no regular file, or of
// another size is a *snapshot.CorruptError. pace is told of each read, and may wait.
func Examine(ctx context.Context, key []byte, e *snapshot.Entry, pace func(bytes int64) error) ([]Span, error) {
	s, err := openSource(whereIs(e), e.Size)
	if err != nil {
		return nil, &snapshot.CorruptError{What: "file", Name: e.Path, Why: err.Error()}
	}
	defer s.Close()
	x := examiner{s: s, k: newKeyed(key), pace: pace}
	var pos int64
	for _, c := range e.Chunks {
		if err := x.hole(ctx, pos, c.Off); err != nil {
			return nil, err
		}
		if err := x.chunk(ctx, c); err != nil {
			return nil, err
		}
		pos = c.Off + c.Len
	}
	return x.bad, x.hole(ctx, pos, e.Size)
}

type examiner struct {
	s    *source
	k    keyed
	pace func(int64) error
	buf  []byte
	bad  []Span
}

func (x *examiner) read(ctx context.Context, off, n int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if int64(len(x.buf)) < n {
		x.buf = make([]byte, roundUp(int(n)))
	}
	if err := x.s.readAt(x.buf[:n], off); err != nil {
		return nil, nil //nolint:nilerr // what can't be read is damaged
	}
	return x.buf[:n], x.pace(n)
}

func (x *examiner) chunk(ctx context.Context, c snapshot.Chunk) error {
	p, err := x.read(ctx, c.Off, c.Len)
	if err != nil {
		return err
	}
	if p == nil || x.k.id(p) != c.ID {
		x.bad = append(x.bad, Span{c.Off, c.Len})
	}
	return nil
}

// hole finds the cells in [from, to) that hold something.
func (x *examiner) hole(ctx context.Context, from, to int64) error {
	for from < to {
		data, ok, err := x.s.nextData(from)
		if err != nil {
			return fmt.Errorf("%s: %w", x.s.path, err)
		}
		if !ok || data >= to {
			return nil
		}
		from = data
		n := min(to-from, cellBytes)
		p, err := x.read(ctx, from, n)
		if err != nil {
			return err
		}
		if p == nil || !isZero(p) {
			x.bad = append(x.bad, Span{from, n})
		}
		from += n
	}
	return nil
}

// mendBatch bounds the chunks that Refill has in memory at a time.
const mendBatch = 16

// Refill gets the content of runs that Examine found in e from packs: write(off, p)
// with plain bytes, each checked against the digest of its chunk; holes are zeros.
// ix must have e's chunks. o.Previous is not used.
func Refill(ctx context.Context, ix *Index, o ExtractOptions, e *snapshot.Entry, bad []Span, write func(off int64, p []byte) error) error {
	wanted := make(map[int64]bool, len(bad))
	for _, b := range bad {
		wanted[b.Off] = true
	}
	var chunks []snapshot.Chunk
	for _, c := range e.Chunks {
		if wanted[c.Off] {
			chunks = append(chunks, c)
			delete(wanted, c.Off)
		}
	}
	for _, b := range bad {
		if !wanted[b.Off] {
			continue
		}
		for off := b.Off; off < b.Off+b.Len; off += cellBytes {
			if err := write(off, make([]byte, min(cellBytes, b.Off+b.Len-off))); err != nil {
				return err
			}
		}
	}
	o.Previous = nil
	for batch := range slices.Chunk(chunks, mendBatch) {
		if err := refill(ctx, ix, o, e, batch, write); err != nil {
			return err
		}
	}
	return nil
}

func refill(ctx context.Context, ix *Index, o ExtractOptions, e *snapshot.Entry, chunks []snapshot.Chunk, write func(off int64, p []byte) error) error {
	part := *ix
	part.Changes = []snapshot.Change{{Entry: snapshot.Entry{Path: e.Path, Type: snapshot.TypeFile, Size: e.Size, Chunks: chunks}}}
	bufs := make([][]byte, len(chunks))
	for i, c := range chunks {
		bufs[i] = make([]byte, c.Len)
	}
	err := Extract(ctx, &part, o, func(_ int, off int64, p []byte) error {
		i, ok := slices.BinarySearchFunc(chunks, off, func(c snapshot.Chunk, off int64) int {
			switch {
			case c.Off+c.Len <= off:
				return -1
			case c.Off > off:
				return 1
			}
			return 0
		})
		if !ok {
			return errors.New("what came lies in no chunk that was asked for")
		}
		copy(bufs[i][off-chunks[i].Off:], p)
		return nil
	})
	if err != nil {
		return err
	}
	for i, c := range chunks {
		if err := write(c.Off, bufs[i]); err != nil {
			return err
		}
	}
	return nil
}

// Rebuild writes a pack of ix again, from the same content and with the same
// encoder, and reports whether it came out with its digest; if not, what was written
// is to be dropped. ix must be of a layer that made the pack. find says where a chunk
// can be read: an entry with a Source, and the chunk in it.
func Rebuild(ctx context.Context, ix *Index, digest snapshot.Digest, key []byte, w io.Writer,
	find func(snapshot.Digest) (*snapshot.Entry, snapshot.Chunk, bool),
) error {
	n := slices.IndexFunc(ix.Packs, func(p Pack) bool { return p.Digest == digest })
	if n < 0 {
		return fmt.Errorf("pack %s: %w", digest, snapshot.ErrNotFound)
	}
	chunks := map[int][]*ChunkRef{}
	for i := range ix.Chunks {
		if c := &ix.Chunks[i]; ix.Frames[c.Frame].Pack == n {
			chunks[c.Frame] = append(chunks[c.Frame], c)
		}
	}
	h := sha256.New()
	out := io.MultiWriter(w, h)
	if _, err := out.Write(append([]byte(packMagic), packV1)); err != nil {
		return err
	}
	at := int64(packHeader)
	for i := range ix.Frames {
		f := &ix.Frames[i]
		if f.Pack != n {
			continue
		}
		if f.Off != at {
			return fmt.Errorf("pack %s: what lies at %d is in no frame of this index", digest, at)
		}
		plain, err := gather(ctx, f, chunks[i], key, find)
		if err != nil {
			return fmt.Errorf("pack %s: %w", digest, err)
		}
		stored := plain
		if f.Codec == CodecZstd {
			stored = compress(nil, plain)
		}
		if len(stored) != int(f.Stored) {
			return fmt.Errorf("pack %s: another encoder made it", digest)
		}
		if _, err := out.Write(stored); err != nil {
			return err
		}
		at += int64(f.Stored)
	}
	if got := snapshot.Digest(h.Sum(nil)); at != ix.Packs[n].Bytes || got != digest {
		return fmt.Errorf("pack %s: made again it is %s", digest, got)
	}
	return nil
}

// gather puts a frame together from the chunks in it.
func gather(ctx context.Context, f *Frame, chunks []*ChunkRef, key []byte,
	find func(snapshot.Digest) (*snapshot.Entry, snapshot.Chunk, bool),
) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	slices.SortFunc(chunks, func(a, b *ChunkRef) int { return int(a.Off) - int(b.Off) })
	plain := make([]byte, f.Plain)
	k, end := newKeyed(key), uint32(0)
	for _, c := range chunks {
		if c.Off != end {
			break
		}
		end += c.Len
		e, at, ok := find(c.ID)
		if !ok {
			return nil, fmt.Errorf("chunk %s is in no file: %w", c.ID, snapshot.ErrNotFound)
		}
		p := plain[c.Off:end]
		if err := (had{e, at}).read(p); err != nil {
			return nil, err
		}
		if k.id(p) != c.ID {
			return nil, &snapshot.CorruptError{What: "file", Name: e.Path, Why: "its content is not what was sealed"}
		}
	}
	if end != f.Plain {
		return nil, errors.New("not all of a frame is in this index")
	}
	return plain, nil
}
