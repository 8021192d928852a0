package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives f n bytes of real blocks.
func allocate(f *os.File, n int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, n)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return writeZeros(f, n)
	}
	return err
}
