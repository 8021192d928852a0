package treecheck

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// stat fills in n for path, and says which inode it is and how many names it has.
func (n *node) stat(path string) (inode [2]uint64, links uint64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode, 0, fmt.Errorf("lstat %q: %w", path, err)
	}
	n.mode, n.uid, n.gid = st.Mode&0o7777, st.Uid, st.Gid
	n.sec, n.nsec = int64(st.Mtim.Sec), int64(st.Mtim.Nsec) //nolint:unconvert // differs by architecture
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.kind = "directory"
	case unix.S_IFREG:
		n.kind, n.size = "file", st.Size
	case unix.S_IFLNK:
		n.kind = "symlink"
		if n.target, err = os.Readlink(path); err != nil {
			return inode, 0, err
		}
	case unix.S_IFIFO:
		n.kind = "fifo"
	case unix.S_IFSOCK:
		n.kind = "socket"
	case unix.S_IFCHR:
		n.kind, n.dev = "character device", uint64(st.Rdev) //nolint:unconvert // differs by architecture
	case unix.S_IFBLK:
		n.kind, n.dev = "block device", uint64(st.Rdev) //nolint:unconvert // differs by architecture
	}
	if n.xattrs, err = xattrs(path); err != nil {
		return inode, 0, err
	}
	return [2]uint64{uint64(st.Dev), st.Ino}, uint64(st.Nlink), nil //nolint:unconvert // differs by architecture
}

// xattrs reads all attributes but SELinux labels, which the system sets by itself, and
// the second name that ACLs have on XFS.
func xattrs(path string) (map[string][]byte, error) {
	n, err := unix.Llistxattr(path, nil)
	if n == 0 && err == nil {
		return nil, nil // nearly all of them
	}
	list := make([]byte, 1<<16)
	if err == nil {
		n, err = unix.Llistxattr(path, list)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes of %q: %w", path, err)
	}
	out := map[string][]byte{}
	for _, name := range strings.Split(string(list[:n]), "\x00") {
		if name == "" || name == "security.selinux" || strings.HasPrefix(name, "trusted.SGI_ACL_") {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("attribute %s of %q: %w", name, path, err)
		}
		out[name] = value[:n:n]
	}
	return out, nil
}

// nextData is the first offset from off on where there may be data; io.EOF behind
// the last.
func nextData(f *os.File, off int64) (int64, error) {
	next, err := f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, io.EOF
	}
	if errors.Is(err, unix.EINVAL) {
		return off, nil // the file system knows of no holes
	}
	return next, err
}
