// Package blob stores blobs by the SHA-256 of their bytes: on a disk (Dir), and
// over HTTP (Handler serves any Store, HTTP is one). A blob never changes; to put
// it twice is to put it once.
//
// A Put that returned nil is durable: with a Dir the bytes were verified against
// the digest, synced, renamed into place and the directory synced, and the Handler
// answers only after that. Get promises the length, not the content: readers
// verify.
package blob

import (
	"context"
	"errors"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// ErrFull says that the store's disk has no room. It may pass.
var ErrFull = errors.New("the blob store is full")

// Store is a set of blobs. All methods may be called at any time from any goroutine.
type Store interface {
	// Put stores the size bytes that open gives as d, and returns once they are
	// durable. open is called at most once per try, and not at all if the blob is
	// there. Bytes that do not hash to d, or are not size long, are a
	// *snapshot.CorruptError and are not stored; no room is ErrFull.
	Put(ctx context.Context, d snapshot.Digest, size int64, open func() (io.ReadCloser, error)) error
	// Get opens the n bytes at off, or all from off if n is negative. The reader
	// gives io.EOF after exactly these and io.ErrUnexpectedEOF if they end early.
	// No such blob is snapshot.ErrNotFound; a range that is not in the blob is a
	// *snapshot.CorruptError, as it was taken from something that lies.
	Get(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error)
	// Stat returns the size of a blob that is durable, or snapshot.ErrNotFound.
	Stat(ctx context.Context, d snapshot.Digest) (int64, error)
}
