//go:build unix

package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// placer makes entries below a directory that nobody else writes to. Whatever a
// path says, nothing outside that directory is touched: each parent is opened
// beneath it without following any link, and each name is made anew (O_EXCL).
//
// It keeps the last parent open, so entries in manifest order cost one open per
// directory. Not for use by several goroutines, but for Open.
type placer struct {
	root   string
	fd     int // of root
	owners bool
	cached string // path of the directory behind dirFD
	dirFD  int

	discarded int // names given in the trash
}

func newPlacer(root string, owners bool) (*placer, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	return &placer{root: root, fd: fd, owners: owners, dirFD: -1}, nil
}

func (p *placer) close() {
	p.forget()
	unix.Close(p.fd) //nolint:errcheck // a directory
}

func (p *placer) forget() {
	if p.dirFD >= 0 {
		unix.Close(p.dirFD) //nolint:errcheck // a directory
	}
	p.dirFD, p.cached = -1, ""
}

func (p *placer) wrap(op, rel string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: filepath.Join(p.root, rel), Err: snapshot.Taken(err)}
}

// split checks a path and cuts it into directory and name.
func split(rel string) (dir, name string, err error) {
	if rel == "" || len(rel) > snapshot.MaxPathBytes || strings.ContainsRune(rel, 0) {
		return "", "", fmt.Errorf("path %.80q: empty, too long or with a NUL byte", rel)
	}
	for c := range strings.SplitSeq(rel, "/") {
		if c == "" || c == "." || c == ".." || len(c) > snapshot.MaxNameBytes {
			return "", "", fmt.Errorf("path %.80q: bad component %.40q", rel, c)
		}
	}
	dir, name = path.Split(rel)
	return strings.TrimSuffix(dir, "/"), name, nil
}

// at returns the descriptor of rel's parent, valid until the next call, and
// rel's name in it.
func (p *placer) at(rel string) (int, string, error) {
	dir, name, err := split(rel)
	if err != nil {
		return -1, "", err
	}
	if dir == "" {
		return p.fd, name, nil
	}
	if p.dirFD < 0 || dir != p.cached {
		fd, err := openDirBeneath(p.fd, dir)
		if err != nil {
			return -1, "", p.wrap("open", dir, err)
		}
		p.forget()
		p.dirFD, p.cached = fd, dir
	}
	return p.dirFD, name, nil
}

// fileOf reports whether rel is a regular file of that size.
func (p *placer) fileOf(rel string, size int64) bool {
	fd, name, err := p.at(rel)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == size
}

func (p *placer) mkdir(rel string) error {
	fd, name, err := p.at(rel)
	if err != nil {
		return err
	}
	return p.wrap("mkdir", rel, unix.Mkdirat(fd, name, 0o700))
}

// create makes a file that must not exist and returns it open for writing.
func (p *placer) create(rel string) (*os.File, error) {
	dir, name, err := p.at(rel)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, p.wrap("create", rel, err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(p.root, rel)), nil
}

func (p *placer) symlink(target, rel string) error {
	fd, name, err := p.at(rel)
	if err != nil {
		return err
	}
	return p.wrap("symlink", rel, unix.Symlinkat(target, fd, name))
}

// link gives the file at old the further name rel.
func (p *placer) link(old, rel string) error {
	dir, base, err := split(old)
	if err != nil {
		return err
	}
	from := p.fd
	if dir != "" {
		if from, err = openDirBeneath(p.fd, dir); err != nil {
			return p.wrap("open", dir, err)
		}
		defer unix.Close(from) //nolint:errcheck // a directory
	}
	fd, name, err := p.at(rel)
	if err != nil {
		return err
	}
	return p.wrap("link", rel, unix.Linkat(from, base, fd, name, 0))
}

// node makes a fifo or a socket.
func (p *placer) node(rel string, t snapshot.Type) error {
	fd, name, err := p.at(rel)
	if err != nil {
		return err
	}
	return p.wrap("mknod", rel, mknodAt(fd, name, t))
}

// has reports whether there is a name rel, whose directories are no links.
func (p *placer) has(rel string) (bool, error) {
	fd, name, err := p.at(rel)
	if err == nil {
		var st unix.Stat_t
		err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return false, nil
	}
	return err == nil, p.wrap("stat", rel, err)
}

// removeAll removes what is at rel, if anything.
func (p *placer) removeAll(ctx context.Context, l layout, rel string) error {
	fd, name, err := p.at(rel)
	if err != nil {
		return err
	}
	done, err := unlinkAny(fd, name)
	if done || !errors.Is(err, unix.ENOTEMPTY) {
		return p.wrap("remove", rel, err)
	}
	trash, err := unix.Open(l.abs(trashDir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return p.wrap("trash", rel, err)
	}
	defer unix.Close(trash) //nolint:errcheck // a directory
	p.discarded++
	to := fmt.Sprintf("%s-%d", path.Base(path.Dir(filepath.ToSlash(p.root))), p.discarded)
	// Not durable.Rename: the tree that it is taken from does not count yet.
	if err := unix.Renameat(fd, name, trash, to); err != nil {
		return p.wrap("remove", rel, err)
	}
	if p.cached == rel || under(p.cached, rel) {
		p.forget()
	}
	return l.shred(ctx, to)
}

// open opens the regular file or directory at rel for reading, or a file for
// writing. It may be called from several goroutines.
func (p *placer) open(rel string, flags int) (*os.File, error) {
	at, name := p.fd, "."
	if rel != "" {
		dir, base, err := split(rel)
		if err != nil {
			return nil, err
		}
		name = base
		if dir != "" {
			if at, err = openDirBeneath(p.fd, dir); err != nil {
				return nil, p.wrap("open", dir, err)
			}
			defer unix.Close(at) //nolint:errcheck // a directory
		}
	}
	fd, err := unix.Openat(at, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, p.wrap("open", rel, err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(p.root, rel)), nil
}

// meta gives the entry at rel its owner, xattrs, mode and time, in the order in
// which none undoes another: a chown clears setuid, and everything moves times.
func (p *placer) meta(rel string, e *snapshot.Entry) error {
	if e.Type == snapshot.TypeDir || e.Type == snapshot.TypeFile {
		f, err := p.open(rel, unix.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read from
		return p.metaFD(f, e)
	}
	dir, name, err := p.at(rel)
	if err != nil {
		return err
	}
	return p.metaAt(dir, name, e)
}

// metaAt is meta for what can't be opened: the name of a link, fifo or socket in
// the directory dir.
func (p *placer) metaAt(dir int, name string, e *snapshot.Entry) error {
	rel := e.Path
	if p.owners {
		if err := unix.Fchownat(dir, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return p.wrap("chown", rel, err)
		}
	}
	if e.Type != snapshot.TypeSymlink {
		if err := SetNodeXattrs(dir, name, e); err != nil {
			return p.wrap("set attributes", rel, err)
		}
		// Not a link, and nobody else writes here: it can't have become one.
		if err := unix.Fchmodat(dir, name, e.Mode&snapshot.ModeMask, 0); err != nil {
			return p.wrap("chmod", rel, err)
		}
	}
	ts := []unix.Timespec{unix.NsecToTimespec(e.MTime), unix.NsecToTimespec(e.MTime)}
	return p.wrap("set time", rel, unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW))
}

// metaFD is meta for an open file or directory.
func (p *placer) metaFD(f *os.File, e *snapshot.Entry) error {
	fd := int(f.Fd())
	if p.owners {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			return &os.PathError{Op: "chown", Path: f.Name(), Err: err}
		}
	}
	err := e.SetXattrs(func(name string, value []byte) error {
		if err := unix.Fsetxattr(fd, name, value, 0); err != nil {
			return &os.PathError{Op: "set attribute " + name, Path: f.Name(), Err: err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := unix.Fchmod(fd, e.Mode&snapshot.ModeMask); err != nil {
		return &os.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	if err := futimes(f, e.MTime); err != nil {
		return &os.PathError{Op: "set time", Path: f.Name(), Err: err}
	}
	return nil
}
