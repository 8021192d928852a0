package pack

import (
	"bytes"
	"context"

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
)

// partOf says that a chunk is a part of one that the base has.
type partOf struct {
	id snapshot.Digest // of the whole
	of int64           // bytes of the whole
	at int64           // where in it
}

// unchangedParts adds to kept, in order, what is unchanged of the other chunks of the
// base. Each is looked for where it would be if it had moved with the chunk before it.
func (e *encoder) unchangedParts(ctx context.Context, s, old *source, chunks []snapshot.Chunk, kept []keep) ([]keep, error) {
	c := comparing{e: e, s: s, old: old, ids: newKeyed(e.o.Key)}
	out := make([]keep, 0, len(kept))
	var moved, end int64
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
		parts, err := c.parts(&chunks[i], moved)
		if err != nil {
			return nil, err
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
	e      *encoder
	s, old *source
	ids    keyed
	a, b   []byte
}

// parts returns what is left of a chunk of the old file in the new one.
func (c *comparing) parts(was *snapshot.Chunk, moved int64) (out []keep, err error) {
	n := int(was.Len)
	if len(c.a) < n {
		c.a, c.b = make([]byte, roundUp(n)), make([]byte, roundUp(n))
	}
	a, b := c.a[:n], c.b[:n]
	if c.old.readAt(a, was.Off) != nil || c.ids.id(a) != was.ID {
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
