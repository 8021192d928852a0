package pack

import (
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's struct fiemap and its extents (linux/fiemap.h).
type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length                 uint64
	flags, mapped, count, reserve uint32
	extents                       [256]fiemapExtent
}

const (
	fsIocFiemap = 0xc020660b
	fiemapSync  = 0x1
	extentLast  = 0x1
	// What an extent that is held in common may be: the last, merged of several,
	// shared. All else (compressed, inline, not written yet) says nothing of the
	// bytes, or is not said here.
	extentShared = 0x2000
	extentPlain  = extentLast | 0x1000 | extentShared
	// maxExtents bounds the time and room that a file in crumbs can take.
	maxExtents = 1 << 18
)

// sharedRanges returns the parts of a that are the same blocks of the disk as the
// same parts of b, so hold the same bytes. It knows that on XFS and btrfs, where a
// file that a job changed shares the rest with the base's; elsewhere there are none.
func sharedRanges(a, b *source) []fileRange {
	if !clones(a, b) {
		return nil
	}
	x, y := extents(a), extents(b)
	var out []fileRange
	for len(x) > 0 && len(y) > 0 {
		p, q := &x[0], &y[0]
		from, to := max(p.logical, q.logical), min(p.logical+p.length, q.logical+q.length)
		if from < to && p.physical-p.logical == q.physical-q.logical &&
			p.flags&^extentLast == q.flags&^extentLast && p.flags&^extentPlain == 0 && p.flags&extentShared != 0 {
			if n := len(out); n > 0 && out[n-1].end == int64(from) {
				out[n-1].end = int64(to)
			} else {
				out = append(out, fileRange{int64(from), int64(to)})
			}
		}
		if p.logical+p.length == to {
			x = x[1:]
		}
		if q.logical+q.length == to {
			y = y[1:]
		}
	}
	return out
}

// clones reports whether a and b are on one file system, of a kind of which
// extents can be believed.
func clones(a, b *source) bool {
	if a.at > 0 || b.at > 0 { // small files
		return false
	}
	var x, y unix.Stat_t
	if unix.Fstat(a.fd, &x) != nil || unix.Fstat(b.fd, &y) != nil || x.Dev != y.Dev {
		return false
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(a.fd, &fs) != nil {
		return false
	}
	kind := uint32(fs.Type) // its type differs between machines
	return kind == unix.XFS_SUPER_MAGIC || kind == unix.BTRFS_SUPER_MAGIC
}

// extents lists where s is on disk; nil if that can't be had.
func extents(s *source) []fiemapExtent {
	var out []fiemapExtent
	m := &fiemap{}
	for at := uint64(0); len(out) < maxExtents; {
		m.start, m.length, m.flags, m.count = at, math.MaxUint64-at, fiemapSync, uint32(len(m.extents))
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), fsIocFiemap, uintptr(unsafe.Pointer(m))); e != 0 {
			return nil
		}
		n := min(int(m.mapped), len(m.extents))
		if n == 0 {
			return out
		}
		for _, x := range m.extents[:n] {
			if x.length == 0 || x.logical < at || x.length > math.MaxInt64-x.logical {
				return nil // not as the kernel promises
			}
			at = x.logical + x.length
			out = append(out, x)
			if x.flags&extentLast != 0 {
				return out
			}
		}
	}
	return nil
}
