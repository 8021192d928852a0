package tree

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// again looks at what is in b, and notes in same what is as it was.
func (t *treeRoot) again(b *batch, o ScanOptions, same []bool) {
	fd, err := t.open(b.rel)
	if err != nil {
		return
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	var st unix.Statx_t
	for i := range b.items {
		k := &b.items[i]
		same[k.at] = statAt(fd, &b.names[k.name], &st) == 0 && k.is(&st, o)
	}
}

// statAt is statx(2) by a name that ends with a zero, which need not be copied.
func statAt(dirfd int, name *byte, st *unix.Statx_t) unix.Errno {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(name)),
			unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(st)), 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// is reports whether st is that of k.
func (k *known) is(st *unix.Statx_t, o ScanOptions) bool {
	switch {
	case st.Mask&unix.STATX_BASIC_STATS != unix.STATX_BASIC_STATS,
		inNanos(st.Ctime) != k.inode.CTime, inNanos(st.Mtime) != k.mtime,
		st.Ino != k.inode.Ino, unix.Mkdev(st.Dev_major, st.Dev_minor) != k.inode.Dev,
		uint32(st.Mode)&snapshot.ModeMask != k.mode:
		return false
	case o.Owners && (st.Uid != k.uid || st.Gid != k.gid), !o.Owners && k.uid|k.gid != 0:
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return k.kind == snapshot.TypeDir
	case unix.S_IFREG:
		return k.kind == snapshot.TypeFile && int64(st.Size) == k.size
	case unix.S_IFLNK:
		return k.kind == snapshot.TypeSymlink
	case unix.S_IFIFO:
		return k.kind == snapshot.TypeFifo
	case unix.S_IFSOCK:
		return k.kind == snapshot.TypeSocket
	}
	return false
}

// inNanos is nanos of a time that is compared with one that an int64 could hold.
func inNanos(ts unix.StatxTimestamp) int64 { return ts.Sec*1e9 + int64(ts.Nsec) }
