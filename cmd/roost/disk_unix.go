//go:build unix

package main

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// diskSpace returns what is free for us and the size of dir's file system, or of
// its nearest parent that exists, in bytes.
func diskSpace(dir string) (free, total int64, err error) {
	var s unix.Statfs_t
	for {
		err := unix.Statfs(dir, &s)
		if err == nil {
			return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), nil //nolint:unconvert // differs by system
		}
		up := filepath.Dir(dir)
		if up == dir {
			return 0, 0, err
		}
		dir = up
	}
}
