package view

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// openDirBeneath opens the directory at rel below fd. The kernel refuses any link
// on the way and any way out.
func openDirBeneath(fd int, rel string) (int, error) {
	for {
		d, err := unix.Openat2(fd, rel, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err != unix.EINTR && err != unix.EAGAIN {
			return d, err
		}
	}
}

func mknodAt(dir int, name string, t snapshot.Type) error {
	mode := uint32(unix.S_IFIFO)
	if t == snapshot.TypeSocket {
		mode = unix.S_IFSOCK
	}
	return unix.Mknodat(dir, name, mode|0o600, 0)
}

// SetNodeXattrs gives a fifo or a socket, name in the directory dir, the attributes of e:
// access lists are all that one can have. It is reached by a descriptor that opens nothing.
func SetNodeXattrs(dir int, name string, e *snapshot.Entry) error {
	if len(e.Xattrs) == 0 {
		return nil
	}
	if err := e.CheckXattrs(); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // a path only
	for _, x := range e.Xattrs {
		if err := unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d", fd), x.Name, x.Value, 0); err != nil {
			return err
		}
	}
	return nil
}

// nodeACL is the attribute that a fifo or a socket can have.
const nodeACL = "system.posix_acl_access"

// nodeXattrs reads the attributes of a fifo or a socket.
func nodeXattrs(dir int, name string) ([]snapshot.Xattr, error) {
	buf := make([]byte, snapshot.MaxXattrBytes)
	n, err := unix.Lgetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, name), nodeACL, buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []snapshot.Xattr{{Name: nodeACL, Value: append([]byte(nil), buf[:n]...)}}, nil
}

// futimes sets the time of the file itself, by a null path: a regular file's
// nanoseconds before 1970 included.
func futimes(f *os.File, ns int64) error {
	ts := []unix.Timespec{unix.NsecToTimespec(ns), unix.NsecToTimespec(ns)}
	return unix.UtimesNanoAt(int(f.Fd()), "", ts, unix.AT_EMPTY_PATH)
}
