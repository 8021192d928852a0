package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// dataSync makes what was written to f durable, its times aside.
func dataSync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR { //nolint:errorlint // as the call gives it
			return err
		}
	}
}
