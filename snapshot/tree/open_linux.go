package tree

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOpenPath is how much of a path is given to one openat2: PATH_MAX counts the
// final NUL, and a manifest may hold longer paths than that.
const maxOpenPath = 4000

// open returns a descriptor of the directory rel. Directories are opened from the
// root each time rather than from their parent, so a scan holds one descriptor
// per goroutine however deep the tree is.
func (t *treeRoot) open(rel string) (int, error) {
	if rel == "" {
		rel = "."
	}
	fd := t.fd
	for rest := rel; rest != ""; {
		part := rest
		if len(rest) > maxOpenPath {
			part = rest[:strings.LastIndexByte(rest[:maxOpenPath], '/')+1]
		}
		next, err := openBeneath(fd, part, t.flags)
		if fd != t.fd {
			_ = unix.Close(fd)
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open directory", Path: rel, Err: err}
		}
		fd, rest = next, rest[len(part):]
	}
	return fd, nil
}

// openBeneath opens a directory below dirfd without passing a symlink.
func openBeneath(dirfd int, rel string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dirfd, rel, &how)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue // EAGAIN: something was renamed while the path was walked
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			// Before Linux 5.6, or filtered away by a sandbox; or flags are the owner's only.
			return openSteps(dirfd, rel)
		}
		return fd, err
	}
}

// openSteps does the same one component at a time.
func openSteps(dirfd int, rel string) (int, error) {
	fd, err := dirfd, error(nil)
	for name := range strings.SplitSeq(rel, "/") {
		if name == "" {
			continue
		}
		if name == ".." {
			err = unix.EXDEV
		}
		next := -1
		if err == nil {
			next, err = openDir(fd, name, unix.O_NOFOLLOW)
		}
		if fd != dirfd {
			_ = unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

func openDir(dirfd int, name string, flags int) (fd int, err error) {
	err = ignoringEINTR(func() error {
		fd, err = unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, 0)
		return err
	})
	return fd, err
}
