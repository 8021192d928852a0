package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// lookBuffers are what one worker of a Look reads into, over and over.
type lookBuffers struct {
	st    unix.Statx_t
	attrs [1 << 10]byte
}

// look tells v what is in directory v.rel. Each entry costs one call for its metadata
// and one for the names of its attributes. What these say that is not plainly right is
// left to describe, whose word counts.
func (t *treeRoot) look(v *looking) {
	fd, err := t.open(v.rel)
	if err != nil {
		v.failed(v.rel, err)
		return
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	if !t.plain(v, fd, self) {
		var it Item
		if err := t.describe(&it, fd, ".", v.rel, "", ScanOptions{}); err != nil {
			v.failed(v.rel, err)
			return
		}
	}
	err = eachName(fd, func(name []byte, kind byte) {
		plain := name[:len(name)-1]
		if kind == unix.DT_UNKNOWN {
			kind = kindOf(fd, string(plain))
		}
		if kind == unix.DT_DIR {
			v.sub(string(plain))
			return
		}
		if len(v.rel)+len(name) <= snapshot.MaxPathBytes && len(plain) <= snapshot.MaxNameBytes && t.plain(v, fd, name) {
			if v.buf.st.Mode&unix.S_IFMT == unix.S_IFREG {
				v.file(int64(v.buf.st.Size), inodeOf(&v.buf.st))
			}
			return
		}
		var it Item
		path := v.path(string(plain))
		if err := t.describe(&it, fd, string(plain), path, "", ScanOptions{}); err != nil {
			v.failed(path, err)
		} else if it.Entry.Type == snapshot.TypeFile && !it.Inode.Char {
			v.file(it.Entry.Size, it.Inode)
		}
	})
	if err != nil {
		v.failed(v.rel, &fs.PathError{Op: "read directory", Path: v.rel, Err: err})
	}
}

// self names the directory itself, for calls that take a name in it.
var self = []byte{0}

func inodeOf(st *unix.Statx_t) Inode {
	return Inode{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino, Nlink: st.Nlink}
}

// plain reports whether all is right with an entry, whose metadata is in v.buf then.
// false says nothing. name ends with a zero.
func (t *treeRoot) plain(v *looking, dirfd int, name []byte) bool {
	const want = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_NLINK | unix.STATX_INO | unix.STATX_SIZE | unix.STATX_MTIME
	st, flags := &v.buf.st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT
	if len(name) == 1 {
		flags |= unix.AT_EMPTY_PATH
	}
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])), uintptr(flags),
		want, uintptr(unsafe.Pointer(st)), 0)
	if errno != 0 || st.Mask&want != want {
		return false
	}
	if _, ok := nanos(st.Mtime.Sec, int64(st.Mtime.Nsec)); !ok {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR:
		return st.Rdev_major == 0 && st.Rdev_minor == 0 // a whiteout, whose attributes are nobody's
	default:
		return false
	}
	return t.xattrs.plain(dirfd, name, v.buf.attrs[:])
}

// plain reports whether an entry has only attributes that are kept, or are overlay's.
func (r xattrReader) plain(dirfd int, name, buf []byte) bool {
	var n uintptr
	var errno unix.Errno
	switch {
	case len(name) == 1:
		n, _, errno = unix.Syscall(unix.SYS_FLISTXATTR, uintptr(dirfd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	case r.at:
		n, _, errno = unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
			unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
	default:
		return false
	}
	if errno != 0 {
		return errno == unix.ENOTSUP
	}
	count := 0
	for list := buf[:n]; len(list) > 0; count++ {
		attr, rest, _ := bytes.Cut(list, []byte{0})
		list = rest
		if len(attr) == 0 {
			return false
		}
		if _, _, what := judge(unsafe.String(&attr[0], len(attr))); what != "" {
			return false
		}
	}
	return count <= snapshot.MaxXattrs
}

// direntBytes is what one getdents call may return: about 1,500 short names.
const direntBytes = 48 << 10

var direntBuffers = sync.Pool{New: func() any { return new([direntBytes]byte) }}

// kindOf is for file systems that don't tell with the name. Of what can't be asked,
// describe says why.
func kindOf(dirfd int, name string) byte {
	var st unix.Stat_t
	err := ignoringEINTR(func() error {
		return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	})
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.DT_DIR
	}
	return unix.DT_UNKNOWN
}

// Parts of the kernel's struct linux_dirent64.
const (
	direntNext   = 8  // i64
	direntLength = 16 // u16
	direntKind   = 18 // u8
	direntName   = 19 // up to a zero
)

// direntEnd is where the next entry is if there is none: no file is longer. ext4 and
// btrfs say so, which spares a call that returns nothing.
const direntEnd = 1<<63 - 1

// eachDirent calls fn for each name in a directory, as it lists them.
func eachDirent(fd int, fn func(name string, kind byte)) error {
	return eachName(fd, func(name []byte, kind byte) { fn(string(name[:len(name)-1]), kind) })
}

// eachName is eachDirent. The name ends with a zero, and is fn's until it returns.
func eachName(fd int, fn func(name []byte, kind byte)) error {
	pooled := direntBuffers.Get().(*[direntBytes]byte) //nolint:forcetypeassert // nothing else is put there
	defer direntBuffers.Put(pooled)
	for {
		n, err := unix.Getdents(fd, pooled[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		var next uint64
		for b := pooled[:n]; len(b) >= direntName; {
			length := int(binary.NativeEndian.Uint16(b[direntLength:]))
			if length < direntName || length > len(b) {
				return unix.EIO
			}
			end := bytes.IndexByte(b[direntName:length], 0)
			if end < 0 {
				return unix.EIO
			}
			name := b[direntName : direntName+end+1]
			if !(name[0] == '.' && (end == 1 || end == 2 && name[1] == '.')) {
				fn(name, b[direntKind])
			}
			next = binary.NativeEndian.Uint64(b[direntNext:])
			b = b[length:]
		}
		if next == direntEnd {
			return nil
		}
	}
}
