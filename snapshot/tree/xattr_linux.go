package tree

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// xattrReader lists and gets attributes of a name in a directory, without opening
// the file and without following it.
type xattrReader struct {
	at        bool // listxattrat(2), Linux 6.13; else by /proc/self/fd
	skip      func(*snapshot.UnsupportedError)
	namesOnly bool // values are not asked for
}

func newXattrReader(dirfd int) xattrReader {
	_, err := listxattrat(dirfd, ".", nil)
	return xattrReader{at: err == nil || errors.Is(err, unix.ENOTSUP)}
}

// read adds it's attributes to it.
func (r xattrReader) read(it *Item, dirfd int, name string) error {
	if it.Inode.Char {
		return nil
	}
	var buf [1 << 10]byte
	names, err := r.list(dirfd, name, buf[:])
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			return nil
		}
		return gone("list attributes", it.Entry.Path, err)
	}
	all := names
	for len(names) > 0 {
		attr, rest, _ := strings.Cut(names, "\x00")
		names = rest
		if acl, ok := xfsACL[attr]; ok && strings.Contains("\x00"+all, "\x00"+acl+"\x00") {
			continue
		}
		keep, special, what := judge(attr)
		if what != "" {
			err := &snapshot.UnsupportedError{Path: it.Entry.Path, What: what}
			if r.skip == nil {
				return err
			}
			r.skip(err)
			continue
		}
		if !keep && !special {
			continue
		}
		v, err := r.value(dirfd, name, attr)
		if errors.Is(err, unix.ENODATA) && strings.HasPrefix(attr, "system.") {
			continue // a file system may list an ACL that says no more than the mode
		}
		if err != nil {
			return gone("get attribute "+attr, it.Entry.Path, err)
		}
		if special {
			it.Special = append(it.Special, snapshot.Xattr{Name: attr, Value: v})
		} else {
			it.Entry.Xattrs = append(it.Entry.Xattrs, snapshot.Xattr{Name: attr, Value: v})
		}
	}
	if n := len(it.Entry.Xattrs); n > snapshot.MaxXattrs {
		if r.namesOnly { // some may be names alone
			r.namesOnly, it.Entry.Xattrs, it.Special = false, nil, nil
			return r.read(it, dirfd, name)
		}
		return &snapshot.UnsupportedError{Path: it.Entry.Path, What: fmt.Sprintf("set of %d attributes (the limit is %d)", n, snapshot.MaxXattrs)}
	}
	byName := func(a, b snapshot.Xattr) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(it.Entry.Xattrs, byName)
	slices.SortFunc(it.Special, byName)
	return nil
}

// xfsACL has the names under which XFS lists ACLs a second time, to root.
var xfsACL = map[string]string{
	"trusted.SGI_ACL_FILE":    "system.posix_acl_access",
	"trusted.SGI_ACL_DEFAULT": "system.posix_acl_default",
}

// judge says what becomes of an attribute: it is kept, it is overlay's own, or it
// is what can't be kept. What file systems derive by themselves (system.nfs4_acl,
// btrfs.compression) and SELinux labels are ignored.
func judge(attr string) (keep, special bool, what string) {
	switch {
	case snapshot.KeepsXattr(attr):
		return true, false, ""
	case strings.HasPrefix(attr, "trusted.overlay."):
		return false, true, ""
	case attr == "security.selinux":
		return false, false, ""
	case attr == "security.capability":
		return false, false, "file capability"
	case strings.HasPrefix(attr, "trusted."), strings.HasPrefix(attr, "security."):
		return false, false, attr + " attribute"
	}
	return false, false, ""
}

// maxXattrList is XATTR_LIST_MAX: no file has more bytes of names.
const maxXattrList = 1 << 16

func (r xattrReader) list(dirfd int, name string, buf []byte) (string, error) {
	for {
		n, err := r.listInto(dirfd, name, buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < maxXattrList {
			buf = make([]byte, maxXattrList)
			continue
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}

func (r xattrReader) listInto(dirfd int, name string, buf []byte) (int, error) {
	if r.at {
		return listxattrat(dirfd, name, buf)
	}
	return unix.Llistxattr(procPath(dirfd, name), buf)
}

// value is get where values are wanted.
func (r xattrReader) value(dirfd int, name, attr string) ([]byte, error) {
	if r.namesOnly {
		return nil, nil
	}
	return r.get(dirfd, name, attr)
}

func (r xattrReader) get(dirfd int, name, attr string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := r.getInto(dirfd, name, attr, buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < snapshot.MaxXattrBytes {
			buf = make([]byte, snapshot.MaxXattrBytes)
			continue
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return slices.Clone(buf[:n]), nil
	}
}

func (r xattrReader) getInto(dirfd int, name, attr string, buf []byte) (int, error) {
	if r.at {
		return getxattrat(dirfd, name, attr, buf)
	}
	return unix.Lgetxattr(procPath(dirfd, name), attr, buf)
}

// procPath reaches a name by its directory's descriptor where there is no call
// that takes one.
func procPath(dirfd int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + name
}

func listxattrat(dirfd int, name string, buf []byte) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(p)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// xattrArgs is the kernel's struct xattr_args.
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

func getxattrat(dirfd int, name, attr string, buf []byte) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	a, err := unix.BytePtrFromString(attr)
	if err != nil {
		return 0, err
	}
	// The struct holds the address as a number, which neither the collector nor a
	// growing stack would follow: pin it.
	var pin runtime.Pinner
	pin.Pin(unsafe.SliceData(buf))
	defer pin.Unpin()
	args := xattrArgs{value: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))), size: uint32(len(buf))}
	n, _, errno := unix.Syscall6(unix.SYS_GETXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(p)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
