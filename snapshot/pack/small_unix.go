//go:build unix

package pack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot/longpath"
)

// smallReader reads many small files, one after the other, most of them beside each
// other: it keeps the directory that it was last in open, and so walks no path for
// the next. One goroutine uses it.
type smallReader struct {
	dir string
	fd  int // of dir; -1: none
	// settled: a file whose inode has not changed since then was not changed while it
	// was read.
	settled int64
}

// clockGrain is more than what a file system's clock may lag behind.
const clockGrain = time.Second

func newSmallReader(now time.Time) *smallReader {
	return &smallReader{fd: -1, settled: now.Add(-clockGrain).UnixNano()}
}

func (r *smallReader) close() {
	if r.fd >= 0 {
		unix.Close(r.fd) //nolint:errcheck // only read from
	}
	r.dir, r.fd = "", -1
}

// read fills p with the whole content at w. It says so if that changes meanwhile.
func (r *smallReader) read(w where, p []byte) error {
	if w.at > 0 || len(p) == 0 {
		return readSlowly(w, p)
	}
	fd, err := r.open(w.path)
	if err != nil {
		return &fs.PathError{Op: "open", Path: w.path, Err: err}
	}
	err = r.readFile(fd, w, p)
	unix.Close(fd) //nolint:errcheck // only read from
	if errors.Is(err, errRecent) {
		return readSlowly(w, p)
	}
	return err
}

// errRecent says that a file's inode changed so lately that one look at it does not
// tell whether its content changed while it was read.
var errRecent = errors.New("changed lately")

// readFile looks at the file once, behind the reading: a change to its content would
// have given its inode a time that is later than settled.
func (r *smallReader) readFile(fd int, w where, p []byte) error {
	got, err := 0, error(nil)
	for n := 1; got < len(p) && n > 0; got += max(n, 0) {
		n, err = retry(func() (int, error) { return unix.Pread(fd, p[got:], int64(got)) })
		if err != nil {
			return &fs.PathError{Op: "read", Path: w.path, Err: err}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: w.path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s: not a regular file", w.path)
	}
	if err := w.check(st.Size, int64(len(p))); err != nil {
		return err
	}
	if got < len(p) {
		return fmt.Errorf("%s: changed while it was read: %w", w.path, io.ErrUnexpectedEOF)
	}
	if w.ctime > 0 && st.Ctim.Nano() != w.ctime {
		return w.errOther()
	}
	if st.Ctim.Nano() >= r.settled {
		return errRecent
	}
	return nil
}

// open opens a file as openSource does.
func (r *smallReader) open(path string) (int, error) {
	if i := strings.LastIndexByte(path, '/'); i > 0 && i+1 < len(path) && r.enter(path[:i]) {
		return openAt(r.fd, path[i+1:])
	}
	return openAt(unix.AT_FDCWD, path)
}

// enter makes dir the directory that is open, if it can be.
func (r *smallReader) enter(dir string) bool {
	if r.fd >= 0 && r.dir == dir {
		return true
	}
	r.close()
	var fd int
	err := longpath.Do(dir, func(path string) (err error) {
		fd, err = retry(func() (int, error) { return unix.Open(path, openPath|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
		return err
	})
	if err != nil {
		return false
	}
	r.dir, r.fd = dir, fd
	return true
}
