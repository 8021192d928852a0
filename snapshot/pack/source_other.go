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
	size  int64
	mtime int64
}

// openSource opens a regular file of size bytes.
func openSource(path string, size int64) (*source, error) {
	if fi, err := os.Lstat(path); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &source{path: path, f: f}
	if s.size, s.mtime, err = s.stat(); err == nil && s.size != size {
		err = fmt.Errorf("%s: has %d bytes and should have %d", path, s.size, size)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
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
	if n, err := s.f.ReadAt(p, off); n < len(p) {
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
