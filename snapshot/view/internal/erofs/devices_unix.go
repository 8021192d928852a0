//go:build unix && !openbsd && !netbsd

package erofs

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstHole returns the offset of the first hole in f, its size if there is none
// or its file system doesn't tell.
func firstHole(f *os.File, size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	at, err := f.Seek(0, unix.SEEK_HOLE)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return size, nil
	}
	if err != nil {
		return 0, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return at, err
}
