package view

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const (
	seekData = unix.SEEK_DATA
	seekHole = unix.SEEK_HOLE
)

// reflink makes dst share src's extents and reports whether it does.
func reflink(dst, src *os.File) bool {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// copyStep copies up to n bytes at off, inside the kernel where it can.
func copyStep(dst, src *os.File, off, n int64) (int64, error) {
	from, to := off, off
	for {
		done, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(n), 0)
		switch {
		case err == nil && done > 0:
			return int64(done), nil
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil, errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS),
			errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
			return copyPlain(dst, src, off, n)
		}
		return 0, err
	}
}
