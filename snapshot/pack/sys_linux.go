package pack

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// openPath opens a directory for finding what is in it, and no more.
const openPath = unix.O_PATH

// openQuiet leaves a file's access time alone. Noting that costs as much as reading a
// small file, and the disk a write of each inode.
const openQuiet = unix.O_NOATIME

// nextData returns the first place at or behind off that is no hole; ok is false
// if there is none. A file system that knows no holes has none, nor has a bundle.
func (s *source) nextData(off int64) (next int64, ok bool, err error) {
	if s.at > 0 {
		return off, off < s.size, nil
	}
	next, err = unix.Seek(s.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, false, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		return off, off < s.size, nil
	case err != nil:
		return 0, false, &fs.PathError{Op: "seek", Path: s.path, Err: err}
	}
	return next, true, nil
}
