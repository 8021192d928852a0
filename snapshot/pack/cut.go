package pack

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/roost-ci/roost/snapshot"
)

// How files are cut. Chunks depend on the bytes, and those of large files on the
// chunks that the base has at the path and on what it has there; never on what the
// file system says of holes or shared blocks. Readers depend on none of this: chunks may lie anywhere.
const (
	// largeBytes is from where on files are cut into more than what zeros part.
	largeBytes = 1 << 20
	// cellBytes is the grain of holes: an aligned cell of zeros is in no chunk.
	// Finer grains keep sparse files sparser and lists of chunks longer.
	cellBytes = 64 << 10
	// blockBytes is how much of a large file is read at once to be cut.
	blockBytes = 4 * cellBytes
	// pageBytes is the grain in which Extract leaves zeros out again.
	pageBytes = 4 << 10
)

var zeros [cellBytes]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

// cutSmall calls emit for each chunk of a file of less than largeBytes: each
// longest run of cells that are not zero.
func cutSmall(content []byte, emit func(start, end int)) {
	start := -1
	for at := 0; at < len(content); at += cellBytes {
		switch zero := isZero(content[at:min(at+cellBytes, len(content))]); {
		case zero && start >= 0:
			emit(start, at)
			start = -1
		case !zero && start < 0:
			start = at
		}
	}
	if start >= 0 {
		emit(start, len(content))
	}
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

// unchanged says whether the file is as it was when it was opened. Of a bundle it
// says nothing: that grows, and what is in it does not change.
func (s *source) unchanged() error {
	if s.at > 0 {
		return nil
	}
	size, mtime, err := s.stat()
	if err == nil && (size != s.whole || mtime != s.mtime) {
		err = fmt.Errorf("%s: changed while it was read", s.path)
	}
	return err
}
