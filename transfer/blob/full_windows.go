package blob

import (
	"errors"
	"fmt"

	"golang.org/x/sys/windows"
)

// mapFull marks errors that say that the disk is used up.
func mapFull(err error) error {
	if errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// checkFree refuses at once what can't fit, before a byte of it is received.
func (s *Dir) checkFree(size int64) error {
	name, err := windows.UTF16PtrFromString(s.dir)
	if err != nil {
		return err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(name, &free, nil, nil); err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	if have := int64(min(free, 1<<62)); have-s.minFree < size {
		return fmt.Errorf("%w: %d bytes free, %d kept free, %d needed", ErrFull, have, s.minFree, size)
	}
	return nil
}
