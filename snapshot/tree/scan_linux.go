package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// treeRoot is a directory whose tree is read. Everything below it is reached from
// its descriptor without following a symlink, whatever a live job does to the
// tree meanwhile. It may be used from several goroutines.
type treeRoot struct {
	abs    string
	fd     int
	xattrs xattrReader
	light  bool // no Source, no Target
	flags  int  // of directories that are opened
}

func openTree(root string) (*treeRoot, error) {
	abs, err := absolute(root)
	if err != nil {
		return nil, err
	}
	// To note that a directory was read costs as much as reading it, and waits for the
	// journal. Its owner may ask not to.
	flags := unix.O_NOATIME
	fd, err := openDir(unix.AT_FDCWD, abs, flags)
	if errors.Is(err, unix.EPERM) {
		flags = 0
		fd, err = openDir(unix.AT_FDCWD, abs, flags)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	return &treeRoot{abs: abs, fd: fd, xattrs: newXattrReader(fd), flags: flags}, nil
}

func (t *treeRoot) close() { _ = unix.Close(t.fd) }

// skipAttributes leaves out attributes that can't be kept, and tells skip of them.
func (t *treeRoot) skipAttributes(skip func(*snapshot.UnsupportedError)) { t.xattrs.skip = skip }

// lookOnly leaves out what Look does.
func (t *treeRoot) lookOnly() { t.light, t.xattrs.namesOnly = true, true }

// lstat describes one name.
func (t *treeRoot) lstat(rel string, o ScanOptions) (it Item, err error) {
	if rel == "" {
		err := t.describe(&it, t.fd, ".", "", t.abs, o)
		return it, err
	}
	parent, name := "", rel
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		parent, name = rel[:i], rel[i+1:]
	}
	if name == "" || name == "." || name == ".." {
		return Item{}, fmt.Errorf("lstat %q: not a plain relative path", rel)
	}
	fd, err := t.open(parent)
	if err != nil {
		return Item{}, err
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	sources, paths := t.names(parent, []string{name})
	err = t.describe(&it, fd, name, paths[0], sources[0], o)
	return it, err
}

// list describes what is in directory rel, sorted by name, appending to items. On
// an error the items before the one that it is about are returned too.
func (t *treeRoot) list(rel string, o ScanOptions, items []Item) ([]Item, error) {
	fd, err := t.open(rel)
	if err != nil {
		return items, err
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	names, err := readNames(fd)
	if err != nil {
		return items, &fs.PathError{Op: "read directory", Path: rel, Err: err}
	}
	names = o.Exclude.names(rel, names)
	slices.Sort(names)
	sources, paths := t.names(rel, names)
	items = slices.Grow(items, len(names))
	for i, name := range names {
		items = append(items, Item{})
		it := &items[len(items)-1]
		if err := t.describe(it, fd, name, paths[i], sources[i], o); err != nil {
			items = items[:len(items)-1]
			if o.skipped(err) {
				continue
			}
			return items, err
		}
		if it.Entry.Type == snapshot.TypeDir && o.Exclude.dir(it.Entry.Path) {
			items = items[:len(items)-1]
		}
	}
	return items, nil
}

func readNames(fd int) (names []string, err error) {
	err = eachDirent(fd, func(name string, _ byte) { names = append(names, name) })
	return names, err
}

// describe fills in it for one name of the directory dirfd.
func (t *treeRoot) describe(it *Item, dirfd int, name, path, source string, o ScanOptions) error {
	if err := fits(path, name); err != nil {
		return err
	}
	var st unix.Stat_t
	err := ignoringEINTR(func() error {
		return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	})
	if err != nil {
		return gone("stat", path, err)
	}
	it.Entry.Path = path
	if err := fromStat(it, &st, o); err != nil {
		return err
	}
	e := &it.Entry
	switch e.Type {
	case snapshot.TypeFile:
		e.Size, e.Source = st.Size, source
	case snapshot.TypeSymlink:
		if t.light {
			break
		}
		if e.Target, err = readlink(dirfd, name); err != nil {
			return gone("read link", path, err)
		}
	default: // its metadata is all
	}
	return t.xattrs.read(it, dirfd, name)
}

// fromStat fills in what one stat call tells.
func fromStat(it *Item, st *unix.Stat_t, o ScanOptions) error {
	e := &it.Entry
	it.Inode = Inode{
		Dev: uint64(st.Dev), Ino: st.Ino, Nlink: uint32(st.Nlink), Rdev: uint64(st.Rdev), //nolint:unconvert // differs by architecture
	}
	it.Inode.CTime, _ = nanos(int64(st.Ctim.Sec), int64(st.Ctim.Nsec)) //nolint:unconvert // differs by architecture
	e.Mode = st.Mode & snapshot.ModeMask
	if o.Owners {
		e.UID, e.GID = st.Uid, st.Gid
	}
	var ok bool
	if e.MTime, ok = nanos(int64(st.Mtim.Sec), int64(st.Mtim.Nsec)); !ok { //nolint:unconvert // same
		return oddTime(e.Path)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = snapshot.TypeDir
	case unix.S_IFREG:
		e.Type = snapshot.TypeFile
	case unix.S_IFLNK:
		e.Type = snapshot.TypeSymlink
	case unix.S_IFIFO:
		e.Type = snapshot.TypeFifo
	case unix.S_IFSOCK:
		e.Type = snapshot.TypeSocket
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			it.Inode.Char = true
			return nil
		}
		return &snapshot.UnsupportedError{Path: e.Path, What: "character device"}
	case unix.S_IFBLK:
		return &snapshot.UnsupportedError{Path: e.Path, What: "block device"}
	default:
		return &snapshot.UnsupportedError{Path: e.Path, What: fmt.Sprintf("file of unknown type %#o", st.Mode&unix.S_IFMT)}
	}
	return nil
}

// nanos is a time in nanoseconds, and whether a manifest can have it.
func nanos(sec, nsec int64) (int64, bool) {
	const lim = math.MaxInt64/1_000_000_000 - 1
	ns := sec*1e9 + nsec
	return ns, sec >= -lim && sec <= lim && minTime <= ns && ns <= maxTime
}

func readlink(dirfd int, name string) (string, error) {
	var buf [snapshot.MaxTargetBytes + 1]byte
	var n int
	err := ignoringEINTR(func() (err error) {
		n, err = unix.Readlinkat(dirfd, name, buf[:])
		return err
	})
	if err != nil {
		return "", err
	}
	if n == len(buf) {
		return "", unix.ENAMETOOLONG
	}
	return string(buf[:n]), nil
}

// gone names what was asked of path, and says more of a name that has vanished.
func gone(op, path string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
