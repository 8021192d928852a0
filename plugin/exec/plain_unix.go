//go:build unix

package exec

import (
	"os"

	"golang.org/x/sys/unix"
)

// openPlain opens a file for reading; it follows no link and waits for no pipe.
func openPlain(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}
