package pack

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/roost-ci/roost/snapshot"
)

// How files are cut. It depends on nothing but their bytes, so one content has one
// list of chunks whatever the file system says of holes. Readers depend on none of
// this: chunks may lie anywhere.
const (
	// pieceBytes is where files are cut, and the most that is read at once.
	pieceBytes = snapshot.MaxChunkBytes
	// cellBytes is the grain of holes: an aligned cell of zeros is in no chunk.
	// Finer grains keep sparse files sparser and lists of chunks longer.
	cellBytes = 64 << 10
	// pageBytes is the grain in which Extract leaves zeros out again.
	pageBytes = 4 << 10
)

var zeros [cellBytes]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

// cut calls emit for each chunk in a piece: each longest run of cells that are not
// zero.
func cut(piece []byte, emit func(start, end int)) {
	start := -1
	for at := 0; at < len(piece); at += cellBytes {
		switch zero := isZero(piece[at:min(at+cellBytes, len(piece))]); {
		case zero && start >= 0:
			emit(start, at)
			start = -1
		case !zero && start < 0:
			start = at
		}
	}
	if start >= 0 {
		emit(start, len(piece))
	}
}

// eachPiece calls f for each piece of s that may hold more than zeros, in order.
func eachPiece(s *source, f func(off int64, n int) error) error {
	for off := int64(0); off < s.size; {
		next, ok, err := s.nextData(off)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		off = max(off, next-next%pieceBytes)
		n := min(s.size-off, pieceBytes)
		if n <= 0 {
			break
		}
		if err := f(off, int(n)); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// keyed computes chunk ids. One goroutine uses it.
type keyed struct{ h hash.Hash }

func newKeyed(key []byte) keyed { return keyed{hmac.New(sha256.New, key)} }

func (k keyed) id(p []byte) (d snapshot.Digest) {
	k.h.Reset()
	k.h.Write(p)
	k.h.Sum(d[:0])
	return d
}

// Hash reads e's Source and fills e.Chunks as Encode would. It does nothing to an
// entry that is hashed already.
func Hash(ctx context.Context, key []byte, e *snapshot.Entry) error {
	if e.Hashed() {
		return nil
	}
	if e.Source == "" {
		return fmt.Errorf("%q: %w, and nowhere to read it", e.Path, errUnhashed)
	}
	s, err := openSource(e.Source, e.Size)
	if err != nil {
		return fmt.Errorf("hash %q: %w", e.Path, err)
	}
	defer s.Close()
	chunks := []snapshot.Chunk{}
	buf := make([]byte, min(e.Size, pieceBytes))
	k := newKeyed(key)
	err = eachPiece(s, func(off int64, n int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.readAt(buf[:n], off); err != nil {
			return err
		}
		cut(buf[:n], func(start, end int) {
			chunks = append(chunks, snapshot.Chunk{
				Off: off + int64(start), Len: int64(end - start), ID: k.id(buf[start:end]),
			})
		})
		return nil
	})
	if err == nil {
		err = s.unchanged()
	}
	if err != nil {
		return fmt.Errorf("hash %q: %w", e.Path, err)
	}
	e.Chunks = chunks
	return nil
}

// unchanged says whether the file is as it was when it was opened.
func (s *source) unchanged() error {
	size, mtime, err := s.stat()
	if err == nil && (size != s.size || mtime != s.mtime) {
		err = fmt.Errorf("%s: changed while it was read", s.path)
	}
	return err
}
