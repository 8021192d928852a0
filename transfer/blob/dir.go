package blob

import (
	"context"
	"errors"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// DirOptions are the knobs of a Dir. The zero value works.
type DirOptions struct {
	// MinFree is how many bytes Put leaves free on the file system.
	MinFree int64
}

// Dir is a Store in a directory.
type Dir struct{ dir string }

// OpenDir opens, and if need be makes, the store in dir.
func OpenDir(dir string, o DirOptions) (*Dir, error) { return nil, errors.ErrUnsupported }

// Close lets others clean up. The Dir must not be used afterwards.
func (s *Dir) Close() error { return nil }

// Put implements Store.
func (s *Dir) Put(ctx context.Context, d snapshot.Digest, size int64, open func() (io.ReadCloser, error)) error {
	return errors.ErrUnsupported
}

// Get implements Store.
func (s *Dir) Get(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// Stat implements Store.
func (s *Dir) Stat(ctx context.Context, d snapshot.Digest) (int64, error) {
	return 0, errors.ErrUnsupported
}
