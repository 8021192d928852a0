//go:build unix

package view

import (
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// sameDevice refuses a target to which a tree can't be moved.
func sameDevice(root, target string) error {
	var a, b unix.Stat_t
	if err := unix.Stat(root, &a); err != nil {
		return fmt.Errorf("%s: %w", root, err)
	}
	if err := unix.Stat(target, &b); err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if a.Dev != b.Dev {
		return fmt.Errorf("%s is not on the file system of the store at %s; the copying driver moves trees between them", target, root)
	}
	return nil
}

// inode is the number of a file, 0 if it is not known.
func inode(fi fs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
