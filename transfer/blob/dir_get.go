package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/roost-ci/roost/snapshot"
)

// Get implements Store.
func (s *Dir) Get(_ context.Context, d snapshot.Digest, off, n int64) (_ io.ReadCloser, err error) {
	f, err := os.Open(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(d)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	defer func() {
		if err != nil {
			f.Close() //nolint:errcheck // only read from
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if !fi.Mode().IsRegular() {
		return nil, corrupt(d, "not a regular file")
	}
	if n, err = checkRange(d, off, n, fi.Size()); err != nil {
		return nil, err
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return &fileRange{exactReader: exactReader{r: f, c: f, left: n}, f: f}, nil
}

// checkRange returns how many bytes are asked for.
func checkRange(d snapshot.Digest, off, n, size int64) (int64, error) {
	if n < 0 {
		n = size - off
	}
	if off < 0 || off > size || n > size-off {
		return 0, corrupt(d, fmt.Sprintf("asked for %d bytes at %d of %d", n, off, size))
	}
	return n, nil
}

// fileRange lets the Handler hand the file to sendfile(2).
type fileRange struct {
	exactReader
	f *os.File
}

// exactReader gives left bytes of r, then EOF; an earlier end is ErrUnexpectedEOF.
type exactReader struct {
	r    io.Reader
	c    io.Closer
	left int64
}

// Read implements io.Reader.
func (e *exactReader) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF { //nolint:errorlint // a wrapped EOF is no end
		if err = nil; e.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// Close implements io.Closer.
func (e *exactReader) Close() error { return e.c.Close() }
