package view

import (
	"context"
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// askFiles asks every file below dir whether something of it could not be written back.
// A file system tells of such an error each descriptor that was open then, and of later
// ones only the first that asks; a file remembers its own as long as it is in memory,
// whoever else was told.
func askFiles(ctx context.Context, dir *os.File) error {
	for todo := []string{""}; len(todo) > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel := todo[len(todo)-1]
		subdirs, err := askDir(int(dir.Fd()), rel)
		if err != nil {
			return err
		}
		todo = append(todo[:len(todo)-1], subdirs...)
	}
	return nil
}

// askDir asks the files of one directory, and returns the directories in it.
func askDir(root int, rel string) (subdirs []string, err error) {
	fd, err := openBelow(root, rel)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENAMETOOLONG) {
		return nil, nil // without root a job can lock us out; and no snapshot has such a path
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: rel, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	names, err := namesOf(fd)
	if err != nil {
		return nil, &os.PathError{Op: "list", Path: rel, Err: err}
	}
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			subdirs = append(subdirs, path.Join(rel, name))
		case unix.S_IFREG:
			err = askFile(fd, name)
		}
		if err != nil {
			return nil, &os.PathError{Op: "sync", Path: path.Join(rel, name), Err: err}
		}
	}
	return subdirs, nil
}

// askFile writes nothing, and waits for what is under way.
func askFile(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // only asked
	return unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
}
