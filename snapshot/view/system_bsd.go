//go:build unix && !linux

package view

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// canSyncDirs says that a directory can be opened and synced.
const canSyncDirs = true

// Offsets of holes are not asked for here: all is data.
const (
	seekData = -1
	seekHole = -1
)

func reflink(_, _ *os.File) bool { return false }

func copyStep(dst, src *os.File, off, n int64) (int64, error) { return copyPlain(dst, src, off, n) }

// clearFlags has nothing to do: only root sets such flags here.
func clearFlags(int) {}

// openDirBeneath opens the directory at rel below fd one name at a time, so that
// none of them can be a link.
func openDirBeneath(fd int, rel string) (int, error) {
	at := fd
	for name := range strings.SplitSeq(rel, "/") {
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if at != fd {
			unix.Close(at) //nolint:errcheck // a directory
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// SetNodeXattrs has nothing to do: no such entry can be made.
func SetNodeXattrs(int, string, *snapshot.Entry) error { return nil }

func mknodAt(dir int, name string, t snapshot.Type) error {
	return &snapshot.UnsupportedError{Path: name, What: t.String() + " on this system"}
}

func futimes(f *os.File, ns int64) error {
	tv := []unix.Timeval{unix.NsecToTimeval(ns), unix.NsecToTimeval(ns)}
	if err := unix.Futimes(int(f.Fd()), tv); err != nil {
		return err
	}
	// Microseconds are not enough; nobody else writes here, so the name will do.
	err := os.Chtimes(f.Name(), time.Unix(0, ns), time.Unix(0, ns))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
