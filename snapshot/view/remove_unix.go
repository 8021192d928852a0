//go:build unix

package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// remove deletes p, whatever a job made of it. It is moved into the trash first:
// nobody can reach it there, and what a crash or an error leaves is found again.
func (l layout) remove(ctx context.Context, p string) error {
	to, err := l.toTrash(p)
	if err != nil || to == "" {
		return err
	}
	return l.shred(ctx, filepath.Base(to))
}

// emptyTrash deletes all that earlier removals left.
func (l layout) emptyTrash(ctx context.Context) error {
	names, err := readNames(l.abs(trashDir))
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, l.shred(ctx, n))
	}
	return errors.Join(errs...)
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read from
	return d.Readdirnames(-1)
}

// shred deletes name in the trash.
func (l layout) shred(ctx context.Context, name string) error {
	return shredIn(ctx, l.abs(trashDir), name)
}

// moveGarbage renames what nobody needs any more. Not durable.Rename: after a
// crash it is garbage in either place, and the two syncs cost more than the rest.
func moveGarbage(from, to string) error { return unix.Rename(from, to) }

// shredIn deletes name in the directory trash, which only we write to.
//
// It goes by descriptors and never follows a link, takes away the flags +i and +a
// and modes that forbid it, and needs two descriptors whatever the depth: a
// directory that is not empty is moved up into the trash and done later. It never
// enters another file system.
func shredIn(ctx context.Context, trash, name string) error {
	fd, err := unix.Open(trash, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("trash: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // a directory
	s := shredder{trash: fd, base: name, todo: []string{name}}
	for len(s.todo) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		s.one(n)
	}
	if s.err != nil {
		return fmt.Errorf("delete %s: %w", name, s.err)
	}
	return nil
}

type shredder struct {
	trash int
	base  string
	todo  []string // names in the trash
	moved int
	err   error // the first
}

func (s *shredder) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// one deletes a name in the trash, or all in it but directories that are not
// empty, which it moves up.
func (s *shredder) one(name string) {
	if done, err := unlinkAny(s.trash, name); done {
		return
	} else if err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		s.fail(&os.PathError{Op: "remove", Path: name, Err: err})
		return
	}
	dir, err := openForRemoval(s.trash, name)
	if err != nil {
		s.fail(&os.PathError{Op: "open", Path: name, Err: err})
		return
	}
	f := os.NewFile(uintptr(dir), name)
	defer f.Close() //nolint:errcheck // a directory that is going away
	for s.pass(f) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			s.fail(err)
			return
		}
	}
	if _, err := unlinkAny(s.trash, name); err != nil {
		s.fail(&os.PathError{Op: "remove", Path: name, Err: err})
	}
}

// pass goes through a directory once and reports whether it took anything away:
// a file system may skip names while others are deleted.
func (s *shredder) pass(f *os.File) (progress bool) {
	dir := int(f.Fd())
	for {
		names, err := f.Readdirnames(2048)
		for _, n := range names {
			if s.drop(dir, n) {
				progress = true
			}
		}
		if err != nil || len(names) == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				s.fail(err)
			}
			return progress
		}
	}
}

// drop takes one name out of a directory.
func (s *shredder) drop(dir int, name string) bool {
	done, err := unlinkAny(dir, name)
	if done {
		return true
	}
	if !errors.Is(err, unix.ENOTEMPTY) {
		s.fail(&os.PathError{Op: "remove", Path: name, Err: err})
		return false
	}
	up, err := s.moveUp(dir, name)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		// Moving a directory writes its "..": it needs the same rights.
		if fd, oerr := openForRemoval(dir, name); oerr == nil {
			unix.Close(fd) //nolint:errcheck // only opened to clear what forbids it
			up, err = s.moveUp(dir, name)
		}
	}
	if err != nil {
		s.fail(&os.PathError{Op: "move", Path: name, Err: err})
		return false
	}
	s.todo = append(s.todo, up)
	return true
}

// moveUp moves a directory up into the trash and returns its name there. A removal
// that was killed may have left names of the same kind: they have their own turn.
func (s *shredder) moveUp(dir int, name string) (up string, err error) {
	for {
		s.moved++
		up = fmt.Sprintf("%.100s~%d", s.base, s.moved)
		// Not durable.Rename: what is moved is garbage, and after a crash it is
		// garbage in either place.
		err = unix.Renameat(dir, name, s.trash, up)
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return up, err
		}
	}
}

// unlinkAny removes a name of whatever type. ENOTEMPTY says that it is a
// directory with something in it.
func unlinkAny(dir int, name string) (done bool, err error) {
	for try := 0; ; try++ {
		err = unix.Unlinkat(dir, name, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			// Some systems say EPERM for a directory.
			derr := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
			if !errors.Is(derr, unix.ENOTDIR) {
				err = derr
			}
		}
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return true, nil
		case errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTEMPTY):
			return false, unix.ENOTEMPTY
		case try == 0 && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)):
			unlock(dir, name)
		default:
			return false, err
		}
	}
}

// unlock takes away what forbids the removal of name: flags of the directory or
// of the file itself, and the directory's mode. Errors show at the next try.
func unlock(dir int, name string) {
	clearFlags(dir)
	unix.Fchmod(dir, 0o700) //nolint:errcheck // see above
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR: // opening anything else could block or act
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			clearFlags(fd)
			unix.Close(fd) //nolint:errcheck // only read from
		}
	}
}

// openForRemoval opens the directory name such that its entries can be removed.
func openForRemoval(dir int, name string) (int, error) {
	fd, err := openDirBeneath(dir, name)
	if errors.Is(err, unix.EACCES) {
		var st unix.Stat_t
		if serr := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); serr != nil {
			return -1, serr
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return -1, unix.ENOTDIR
		}
		if cerr := unix.Fchmodat(dir, name, 0o700, 0); cerr != nil {
			return -1, cerr
		}
		fd, err = openDirBeneath(dir, name)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Mode&0o700 != 0o700 {
		unix.Fchmod(fd, 0o700) //nolint:errcheck // shows at the next step
	}
	clearFlags(fd)
	return fd, nil
}

// allowMove makes a directory movable by its owner: moving writes "..", so it
// takes the right to write to it, and no flag that forbids it.
func allowMove(p string) error {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return &os.PathError{Op: "stat", Path: p, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	parent, err := unix.Open(filepath.Dir(p), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(p), Err: err}
	}
	defer unix.Close(parent) //nolint:errcheck // a directory
	fd, err := openForRemoval(parent, filepath.Base(p))
	if err != nil {
		return &os.PathError{Op: "open", Path: p, Err: err}
	}
	return unix.Close(fd)
}
