package pack

import (
	"bytes"
	"context"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// Same reports whether two files hold the same bytes. It looks at their chunks and
// reads, from Source, as little as is needed to be sure: one content can have
// several lists of chunks. Chunks of both must be of one key. It changes neither.
func Same(ctx context.Context, key []byte, a, b *snapshot.Entry) (bool, error) {
	switch {
	case a.Type != b.Type || a.KnownToDiffer(b):
		return false, nil
	case a.SameContent(b):
		return true, nil
	}
	// Read a, and b only if its chunks do not say what is in it.
	if a.Source == "" || !b.Hashed() && b.Source != "" && a.Hashed() {
		a, b = b, a
	}
	if a.Source == "" || !b.Hashed() && b.Source == "" {
		return false, fmt.Errorf("compare %q: its content is known in other chunks, and there is nowhere to read it", a.Path)
	}
	same, err := same(ctx, key, a, b)
	if err != nil {
		return false, fmt.Errorf("compare %q: %w", a.Path, err)
	}
	return same, nil
}

func same(ctx context.Context, key []byte, a, b *snapshot.Entry) (bool, error) {
	s, err := openSource(whereIs(a), a.Size)
	if err != nil {
		return false, err
	}
	defer s.Close()
	is := false
	if b.Hashed() {
		is, err = holds(ctx, key, s, b.Chunks, a.Chunks)
	} else {
		var o *source
		if o, err = openSource(whereIs(b), b.Size); err != nil {
			return false, err
		}
		defer o.Close()
		if is, err = equal(ctx, s, o); err == nil {
			err = o.unchanged()
		}
	}
	if err == nil {
		err = s.unchanged()
	}
	return is, err
}

// holds reports whether s has just what chunks say. Those that stand in have, too,
// are there.
func holds(ctx context.Context, key []byte, s *source, chunks, have []snapshot.Chunk) (bool, error) {
	k := newKeyed(key)
	var buf []byte
	var pos int64
	for _, c := range chunks {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if empty, err := s.zero(ctx, pos, c.Off); err != nil || !empty {
			return false, err
		}
		pos = c.Off + c.Len
		for len(have) > 0 && have[0].Off < c.Off {
			have = have[1:]
		}
		if len(have) > 0 && have[0] == c {
			continue
		}
		if int64(len(buf)) < c.Len {
			buf = make([]byte, roundUp(int(c.Len)))
		}
		if err := s.readAt(buf[:c.Len], c.Off); err != nil {
			return false, err
		}
		if k.id(buf[:c.Len]) != c.ID {
			return false, nil
		}
	}
	return s.zero(ctx, pos, s.size)
}

// zero reports whether s has nothing but zeros in [from, to).
func (s *source) zero(ctx context.Context, from, to int64) (bool, error) {
	var buf []byte
	for from < to {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		data, ok, err := s.nextData(from)
		if err != nil {
			return false, err
		}
		if !ok || data >= to {
			return true, nil
		}
		if from = data; buf == nil {
			buf = make([]byte, cellBytes)
		}
		n := min(to-from, cellBytes)
		if err := s.readAt(buf[:n], from); err != nil {
			return false, err
		}
		if !isZero(buf[:n]) {
			return false, nil
		}
		from += n
	}
	return true, nil
}

// equal compares two files of one size byte by byte.
func equal(ctx context.Context, a, b *source) (bool, error) {
	x, y := make([]byte, min(a.size, blockBytes)), make([]byte, min(a.size, blockBytes))
	for off := int64(0); off < a.size; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		// Where both have a hole there is nothing to compare.
		da, oka, err := a.nextData(off)
		if err != nil {
			return false, err
		}
		db, okb, err := b.nextData(off)
		if err != nil {
			return false, err
		}
		switch {
		case !oka && !okb:
			return true, nil
		case !oka:
			da = db
		case !okb:
			db = da
		}
		off = max(off, min(da, db))
		n := min(a.size-off, blockBytes)
		if err := a.readAt(x[:n], off); err != nil {
			return false, err
		}
		if err := b.readAt(y[:n], off); err != nil {
			return false, err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return false, nil
		}
		off += n
	}
	return true, nil
}
