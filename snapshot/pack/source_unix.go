//go:build unix

package pack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot/longpath"
)

// source is a sealed file that is being read. It goes by descriptors: for small
// files the poller and the finalizer of os.File cost as much as the reading.
type source struct {
	path  string
	fd    int
	at    int64 // where the content begins, 0 unless path is a bundle
	size  int64 // of the content
	whole int64 // size of path
	mtime int64
	ctime int64 // that it must have, as in where
}

// openSource opens a regular file of size bytes, or that run of a bundle. It never
// follows a link and never waits, whatever w has become.
func openSource(w where, size int64) (*source, error) {
	var fd int
	err := longpath.Do(w.path, func(path string) (err error) {
		fd, err = openAt(unix.AT_FDCWD, path)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: w.path, Err: err}
	}
	return opened(&source{path: w.path, fd: fd, at: w.at, size: size, ctime: w.ctime}, w)
}

// openAt opens a name in a directory as openSource does.
func openAt(dir int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, flags|openQuiet, 0) })
	if errors.Is(err, unix.EPERM) { // only its owner may ask for quiet
		return retry(func() (int, error) { return unix.Openat(dir, name, flags, 0) })
	}
	return fd, err
}

func (s *source) stat() (size, mtime int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "stat", Path: s.path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, 0, fmt.Errorf("%s: not a regular file", s.path)
	}
	if s.ctime > 0 && st.Ctim.Nano() != s.ctime {
		return 0, 0, where{path: s.path}.errOther()
	}
	return st.Size, st.Mtim.Nano(), nil
}

// readAt fills p from off.
func (s *source) readAt(p []byte, off int64) error {
	for off += s.at; len(p) > 0; {
		n, err := retry(func() (int, error) { return unix.Pread(s.fd, p, off) })
		if err != nil {
			return &fs.PathError{Op: "read", Path: s.path, Err: err}
		}
		if n == 0 {
			return fmt.Errorf("%s: changed while it was read: %w", s.path, io.ErrUnexpectedEOF)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Close may be called once.
func (s *source) Close() {
	unix.Close(s.fd) //nolint:errcheck // only read from
}

func retry(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
