package view

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// openDirBeneath opens the directory at rel below fd. The kernel refuses any link
// on the way and any way out.
func openDirBeneath(fd int, rel string) (int, error) {
	for {
		d, err := unix.Openat2(fd, rel, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err != unix.EINTR && err != unix.EAGAIN {
			return d, err
		}
	}
}

func mknodAt(dir int, name string, t snapshot.Type) error {
	mode := uint32(unix.S_IFIFO)
	if t == snapshot.TypeSocket {
		mode = unix.S_IFSOCK
	}
	return unix.Mknodat(dir, name, mode|0o600, 0)
}

// futimes sets the time of the file itself, by a null path: a regular file's
// nanoseconds before 1970 included.
func futimes(f *os.File, ns int64) error {
	ts := []unix.Timespec{unix.NsecToTimespec(ns), unix.NsecToTimespec(ns)}
	return unix.UtimesNanoAt(int(f.Fd()), "", ts, unix.AT_EMPTY_PATH)
}
