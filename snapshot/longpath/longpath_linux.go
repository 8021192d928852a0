// Package longpath reaches files whose path is longer than a system call takes. A tree
// may have paths of that very length, and the way to where it lies comes before them.
package longpath

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPiece is how much of a path is opened by one call, which counts a final NUL.
const maxPiece = 4000

// Do calls fn with path, and if that is too long, with another path of the same name that
// is good until fn returns. Links on the way are followed, as a system call does.
func Do(path string, fn func(path string) error) error {
	err := fn(path)
	if errors.Is(err, unix.ENAMETOOLONG) && len(path) > maxPiece {
		err = shorten(path, fn)
	}
	return err
}

func shorten(path string, fn func(short string) error) error {
	dir, rest := -1, path
	defer func() {
		if dir >= 0 {
			unix.Close(dir) //nolint:errcheck // a directory
		}
	}()
	for len(rest) > maxPiece {
		cut := strings.LastIndexByte(rest[:maxPiece], '/')
		if cut <= 0 {
			return &os.PathError{Op: "open", Path: path, Err: unix.ENAMETOOLONG}
		}
		at := unix.AT_FDCWD
		if dir >= 0 {
			at = dir
		}
		next, err := unix.Openat(at, rest[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		if dir >= 0 {
			unix.Close(dir) //nolint:errcheck // a directory
		}
		dir, rest = next, strings.TrimLeft(rest[cut:], "/")
	}
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", dir, rest))
}
