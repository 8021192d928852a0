package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// outFile is a file on its way.
type outFile struct {
	mu   sync.Mutex // guards all, across the writing
	made bool
	fd   int32 // 0: not open
	end  int64 // of what was written
}

// maxHeld bounds the files that are open without being written to just now.
const maxHeld = 512

// fill writes all content.
func (r *restorer) fill(ctx context.Context) error {
	return r.w.extract(ctx, r.write, r.done)
}

// write is called for any file, by any goroutine.
func (r *restorer) write(i int, off int64, p []byte) error {
	f, e := &r.files[i], r.entry(i)
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 || off > e.Size || int64(len(p)) > e.Size-off {
		return fmt.Errorf("bytes %d to %d of %d", off, off+int64(len(p)), e.Size)
	}
	if err := r.openLocked(f, e); err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := unix.Pwrite(int(f.fd), p[:min(len(p), durable.MaxWrite)], off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return wrap("write", e.Path, err)
		}
		p, off = p[n:], off+int64(n)
		if len(e.Chunks) > 1 { // a small one is soon written with its neighbours
			r.behind.Wrote(uintptr(f.fd), n)
		}
	}
	f.end = max(f.end, off)
	if len(e.Chunks) > 1 && r.open.Load() > maxHeld {
		return r.closeLocked(f, e)
	}
	return nil
}

// newFileMode is the mode with which a file is made: the one that it is to have, unless it
// has to be opened again, or only who may write to it can set its attributes.
func newFileMode(e *snapshot.Entry) uint32 {
	if len(e.Chunks) > 1 || len(e.Xattrs) > 0 {
		return 0o600
	}
	return e.Mode & 0o777
}

// openLocked makes the file, or opens it again.
func (r *restorer) openLocked(f *outFile, e *snapshot.Entry) error {
	if f.fd > 0 {
		return nil
	}
	flags := unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if !f.made {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	var fd int
	err := r.in(e.Path, func(dir int, name string) (err error) {
		fd, err = unix.Openat(dir, name, flags, newFileMode(e))
		return err
	})
	if err != nil {
		return wrap("create", e.Path, err)
	}
	f.fd, f.made = int32(fd), true
	r.open.Add(1)
	return nil
}

func (r *restorer) closeLocked(f *outFile, e *snapshot.Entry) error {
	err := unix.Close(int(f.fd))
	f.fd = 0
	r.open.Add(-1)
	return wrap("close", e.Path, err)
}

// done gives a file its length and its look. All that it has was written.
func (r *restorer) done(i int) error {
	f, e := &r.files[i], r.entry(i)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.openLocked(f, e); err != nil {
		return err
	}
	if f.end < e.Size {
		if err := unix.Ftruncate(int(f.fd), e.Size); err != nil {
			return wrap("truncate", e.Path, err)
		}
	}
	if err := r.look(int(f.fd), e, newFileMode(e)&^r.umask); err != nil {
		return err
	}
	if len(e.Chunks) <= 1 {
		r.flush.wrote(f.end)
	}
	return r.closeLocked(f, e)
}

// look gives an open file or directory whose mode is now its owner, attributes,
// mode and time, in the order in which none undoes another.
func (r *restorer) look(fd int, e *snapshot.Entry, now uint32) error {
	if r.owners && (e.UID != r.uid || e.GID != r.gid) {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			return wrap("chown", e.Path, err)
		}
	}
	err := e.SetXattrs(func(name string, value []byte) error {
		return wrap("set attribute "+name, e.Path, unix.Fsetxattr(fd, name, value, 0))
	})
	if err != nil {
		return err
	}
	if mode := e.Mode & snapshot.ModeMask; mode != now || len(e.Xattrs) > 0 {
		if err := unix.Fchmod(fd, mode); err != nil {
			return wrap("chmod", e.Path, err)
		}
	}
	ts := timesOf(e)
	return wrap("set time", e.Path, unix.UtimesNanoAt(fd, "", ts[:], unix.AT_EMPTY_PATH))
}

func timesOf(e *snapshot.Entry) [2]unix.Timespec {
	t := unix.NsecToTimespec(e.MTime)
	return [2]unix.Timespec{t, t}
}
