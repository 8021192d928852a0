package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

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

// shown is what the kernel says of a mount of ours, however that is made: it lies at
// a name that has a snapshot's id, or leads there.
var shown = regexp.MustCompile(`/[iu]?[0-9a-z]{26}([./:,\s]|$)`)

// isShown reports whether what is mounted at dir is a snapshot.
func isShown(dir string) (bool, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	id, _ := mountID(dir)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 5 && f[0] == strconv.FormatUint(id, 10) {
			f[4] = "" // where it is mounted says nothing
			return shown.MatchString(strings.Join(f, " ")), nil
		}
	}
	return false, nil
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
	ours, err := isShown(dir)
	if err != nil {
		return &exitError{code: exitFailed, err: err}
	}
	if !ours || fs.Flags&unix.ST_RDONLY == 0 {
		return usageError(fmt.Errorf("what is at %s is no mount of a snapshot", dir), "umount(8) ends any")
	}
	err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return &exitError{code: exitFailed, err: fmt.Errorf("%s is in use", dir), hint: "somebody's working directory or open file is in it"}
	}
	if err != nil {
		return &exitError{code: exitFailed, err: fmt.Errorf("unmount %s: %w", dir, err)}
	}
	return nil
}
