package pack

import (
	"bytes"
	"context"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// A piece that is overwritten seldom ends where chunks do. What is left of the chunks
// that it lies in is there already, in the frame of the whole chunk: an index can name
// a part of it as a chunk of its own.
const (
	// minPart is the least that becomes a chunk of its own.
	minPart = 16 << 10
	// partGrain is the grain in which chunks are compared.
	partGrain = 1 << 10
	// maxVain is how many chunks in a row are unpacked in vain before the rest of a
	// file is taken to have changed as a whole.
	maxVain = 16
)

// partOf says that a chunk is a part of one that the base has.
type partOf struct {
	id snapshot.Digest // of the whole
	of int64           // bytes of the whole
	at int64           // where in it
}

// unchangedParts adds to kept, in order, what is unchanged of the other chunks of the
// base. Each is looked for where it would be if it had moved with the chunk before it.
// was reads what a chunk of the base has; an error means that it can't be had. After
// most chunks in a row without such a part the rest is left out; 0: no limit.
func (e *encoder) unchangedParts(ctx context.Context, s *source, was func(*snapshot.Chunk, []byte) error, most int,
	chunks []snapshot.Chunk, kept []keep,
) ([]keep, error) {
	c := comparing{e: e, s: s, was: was, ids: newKeyed(e.o.Key)}
	out := make([]keep, 0, len(kept))
	var moved, end int64
	vain := 0
	for i := range chunks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(kept) > 0 && kept[0].i == i {
			moved, end = kept[0].moved, kept[0].Off+kept[0].Len
			out, kept = append(out, kept[0]), kept[1:]
			continue
		}
		at := chunks[i]
		at.Off += moved
		if at.Len < 2*minPart || at.Off < end || at.Off+at.Len > s.size || len(kept) > 0 && at.Off+at.Len > kept[0].Off {
			continue
		}
		if most > 0 && vain >= most {
			continue
		}
		parts, err := c.parts(&chunks[i], moved)
		if err != nil {
			return nil, err
		}
		if vain++; len(parts) > 0 {
			vain = 0
		}
		for _, p := range parts {
			p.i = i
			out, end = append(out, p), p.Off+p.Len
		}
	}
	return out, nil
}

// comparing looks at what a file and the one before it have at a place.
type comparing struct {
	e    *encoder
	s    *source
	was  func(*snapshot.Chunk, []byte) error
	ids  keyed
	a, b []byte
}

// parts returns what is left of a chunk of the old file in the new one.
func (c *comparing) parts(was *snapshot.Chunk, moved int64) (out []keep, err error) {
	n := int(was.Len)
	if len(c.a) < n {
		c.a, c.b = make([]byte, roundUp(n)), make([]byte, roundUp(n))
	}
	a, b := c.a[:n], c.b[:n]
	if c.was(was, a) != nil || c.ids.id(a) != was.ID {
		return nil, nil // it is not what it was; only what chunks say can be believed
	}
	if err := c.s.readAt(b, was.Off+moved); err != nil {
		return nil, err
	}
	c.e.compared.Add(2 * was.Len)
	for at := 0; at < n; {
		end := at + sameRun(a[at:], b[at:])
		if end-at >= minPart {
			out = append(out, keep{
				Chunk: snapshot.Chunk{Off: was.Off + moved + int64(at), Len: int64(end - at), ID: c.ids.id(b[at:end])},
				moved: moved, part: &partOf{was.ID, was.Len, int64(at)},
			})
		}
		at = min(end+partGrain, n)
	}
	return out, nil
}

// sameRun returns how many bytes from the start are the same in both, in whole grains.
func sameRun(a, b []byte) int {
	at := 0
	for at < len(a) {
		end := min(at+partGrain, len(a))
		if !bytes.Equal(a[at:end], b[at:end]) {
			break
		}
		at = end
	}
	return at
}

// frameReader reads chunks that are known from their packs, the last frame kept.
type frameReader struct {
	e     *encoder
	pack  snapshot.Digest
	off   int64
	plain []byte
}

// read fills p with the content of c. It is not checked.
func (r *frameReader) read(ctx context.Context, c *snapshot.Chunk, p []byte) error {
	at, ok := r.e.o.Known(c.ID)
	if !ok || int(at.Len) != len(p) || uint64(at.Off)+uint64(at.Len) > uint64(at.Frame.Plain) {
		return snapshot.ErrNotFound
	}
	if r.plain == nil || r.pack != at.Pack.Digest || r.off != at.Frame.Off {
		r.plain = nil
		plain, err := r.frame(ctx, at)
		if err != nil {
			return err
		}
		r.pack, r.off, r.plain = at.Pack.Digest, at.Frame.Off, plain
	}
	copy(p, r.plain[at.Off:])
	return nil
}

// frame reads a whole frame. Its sizes were checked with the index that it is from.
func (r *frameReader) frame(ctx context.Context, at Location) ([]byte, error) {
	f := &at.Frame
	body, err := r.e.o.Open(ctx, at.Pack.Digest, f.Off, int64(f.Stored))
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // only read from
	stored := make([]byte, f.Stored)
	if _, err := io.ReadFull(body, stored); err != nil {
		return nil, err
	}
	if f.Codec != CodecZstd {
		if f.Stored != f.Plain {
			return nil, errSize
		}
		return stored, nil
	}
	return decompress(make([]byte, 0, f.Plain), stored)
}
