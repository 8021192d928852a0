//go:build linux || darwin || freebsd

package blob

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// mapFull marks errors that say that the disk, its inodes or a quota are used up.
func mapFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// checkFree refuses at once what can't fit, before a byte of it is received.
func (s *Dir) checkFree(size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // types differ between systems
	if free-s.minFree < size {
		return fmt.Errorf("%w: %d bytes free, %d kept free, %d needed", ErrFull, free, s.minFree, size)
	}
	return nil
}
