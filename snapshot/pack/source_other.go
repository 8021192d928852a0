//go:build !unix

package pack

import (
	"fmt"
	"io"
	"os"
)

// source is a sealed file that is being read.
type source struct {
	path  string
	f     *os.File
	at    int64 // where the content begins, 0 unless path is a bundle
	size  int64 // of the content
	whole int64 // size of path
	mtime int64
}

// openSource opens a regular file of size bytes, or that run of a bundle.
func openSource(w where, size int64) (*source, error) {
	if fi, err := os.Lstat(w.path); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", w.path)
	}
	f, err := os.Open(w.path)
	if err != nil {
		return nil, err
	}
	return opened(&source{path: w.path, f: f, at: w.at, size: size}, w)
}

func (s *source) stat() (size, mtime int64, err error) {
	fi, err := s.f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if !fi.Mode().IsRegular() {
		return 0, 0, fmt.Errorf("%s: not a regular file", s.path)
	}
	return fi.Size(), fi.ModTime().UnixNano(), nil
}

// readAt fills p from off.
func (s *source) readAt(p []byte, off int64) error {
	if n, err := s.f.ReadAt(p, s.at+off); n < len(p) {
		if err == io.EOF { //nolint:errorlint // ReadAt returns it bare
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%s: changed while it was read: %w", s.path, err)
	}
	return nil
}

// Close may be called once.
func (s *source) Close() {
	s.f.Close() //nolint:errcheck // only read from
}
