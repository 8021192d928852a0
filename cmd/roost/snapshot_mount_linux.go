package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// isMountPoint reports whether something is mounted at dir.
func isMountPoint(dir string) bool {
	a, ok := mountID(dir)
	if !ok {
		return false
	}
	b, ok := mountID(filepath.Dir(dir))
	return ok && a != b
}

func mountID(dir string) (uint64, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err == nil && st.Mask&unix.STATX_MNT_ID != 0
}

// unmountShown ends a mount of ours: a read-only overlay, image or bind mount.
func unmountShown(dir string) error {
	if !isMountPoint(dir) {
		return usageError(fmt.Errorf("nothing is mounted at %s", dir), "")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return &exitError{code: exitFailed, err: err}
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return usageError(fmt.Errorf("%s can be written to: that is no mount of a snapshot", dir), "")
	}
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return &exitError{code: exitFailed, err: fmt.Errorf("%s is in use", dir), hint: "somebody's working directory or open file is in it"}
	}
	if err != nil {
		return &exitError{code: exitFailed, err: fmt.Errorf("unmount %s: %w", dir, err)}
	}
	return nil
}
