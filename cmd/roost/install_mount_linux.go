package main

import "golang.org/x/sys/unix"

// unmountIdle unmounts the slots' directories, which the agent made a mount of their
// own, unless something is mounted in there or in use.
func unmountIdle(dir string) {
	if len(mountsBelow(dir)) == 0 {
		unix.Unmount(dir, 0) //nolint:errcheck // it is in nobody's way
	}
}
