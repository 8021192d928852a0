package pack

import (
	"context"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// Hash reads e's Source and fills e.Chunks as Encode would if the base had nothing
// at its path. It does nothing to an entry that is hashed already. The chunks of a
// large file are not the only ones that its content can have: compare with Same.
func Hash(ctx context.Context, key []byte, e *snapshot.Entry) error {
	if e.Hashed() {
		return nil
	}
	if e.Source == "" {
		return fmt.Errorf("%q: %w, and nowhere to read it", e.Path, errUnhashed)
	}
	s, err := openSource(whereIs(e), e.Size)
	if err != nil {
		return fmt.Errorf("hash %q: %w", e.Path, err)
	}
	defer s.Close()
	k := newKeyed(key)
	chunks := []snapshot.Chunk{}
	add := func(off int64, p []byte) {
		chunks = append(chunks, snapshot.Chunk{Off: off, Len: int64(len(p)), ID: k.id(p)})
	}
	if e.Size < largeBytes {
		buf := make([]byte, e.Size)
		if err = s.readAt(buf, 0); err == nil {
			cutSmall(buf, func(start, end int) { add(int64(start), buf[start:end]) })
		}
	} else {
		c := cutter{s: s, bufs: &buffers{}}
		c.flush = func(buf []byte, found []found) error {
			for _, f := range found {
				add(f.off, buf[f.start:f.end])
			}
			c.bufs.put(buf)
			return nil
		}
		if err = c.region(ctx, 0, e.Size); err == nil {
			err = c.end()
		}
	}
	if err == nil {
		err = s.unchanged()
	}
	if err != nil {
		return fmt.Errorf("hash %q: %w", e.Path, err)
	}
	e.Chunks = chunks
	return nil
}
