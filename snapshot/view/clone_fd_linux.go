package view

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// lookFD gives a new file its owner, attributes, mode and time, in the order in
// which none undoes another, and leaves out what it has already.
func lookFD(fd int, e *snapshot.Entry, owners bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	chowned := owners && (st.Uid != e.UID || st.Gid != e.GID)
	if chowned {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			return err
		}
	}
	err := e.SetXattrs(func(name string, value []byte) error {
		if err := unix.Fsetxattr(fd, name, value, 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if mode := e.Mode & snapshot.ModeMask; chowned || len(e.Xattrs) > 0 || st.Mode&snapshot.ModeMask != mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return err
		}
	}
	ts := []unix.Timespec{unix.NsecToTimespec(e.MTime), unix.NsecToTimespec(e.MTime)}
	return unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
}

// namesOf lists a directory by its descriptor.
func namesOf(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func linkTarget(dir int, name string) (string, error) {
	var buf [snapshot.MaxTargetBytes + 1]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err == nil && n == len(buf) {
		err = unix.ENAMETOOLONG
	}
	return string(buf[:max(n, 0)]), err
}

// copyableXattrs reads the attributes that a snapshot keeps. What it can't keep
// can't be in a sealed tree.
func copyableXattrs(fd int, rel string) ([]snapshot.Xattr, error) {
	var small [512]byte
	buf := small[:]
	n, err := unix.Flistxattr(fd, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 1<<16) // XATTR_LIST_MAX
		n, err = unix.Flistxattr(fd, buf)
	}
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "list attributes", Path: rel, Err: err}
	}
	var out []snapshot.Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		switch {
		case snapshot.KeepsXattr(name):
		case name == "trusted.SGI_ACL_FILE", name == "trusted.SGI_ACL_DEFAULT": // XFS's second names of ACLs
			continue
		case name == "security.selinux", !strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "security."):
			continue
		default:
			return nil, &snapshot.UnsupportedError{Path: rel, What: "extended attribute " + name}
		}
		v, err := xattrValue(fd, name)
		if errors.Is(err, unix.ENODATA) {
			continue // a file system may list an ACL that says no more than the mode
		}
		if err != nil {
			return nil, &os.PathError{Op: "get attribute " + name, Path: rel, Err: err}
		}
		out = append(out, snapshot.Xattr{Name: name, Value: v})
	}
	return out, nil
}

func xattrValue(fd int, name string) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := unix.Fgetxattr(fd, name, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, snapshot.MaxXattrBytes)
		n, err = unix.Fgetxattr(fd, name, buf)
	}
	return buf[:max(n, 0)], err
}
