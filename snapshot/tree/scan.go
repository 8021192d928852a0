package tree

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// ScanOptions says what of a directory is recorded.
type ScanOptions struct {
	// Owners records uids and gids. Without it they are recorded as 0, which means
	// "self": who runs without root can't set them and does not compare them.
	Owners bool
	// Skip, if set, is told of what a snapshot can't keep, and the scan goes on
	// without it: a name is left out, an attribute too, its file then stays. It may
	// be called from several goroutines. Walk and Lstat don't heed it.
	Skip func(*snapshot.UnsupportedError)
	// Exclude says what is left out without a word; nothing is asked about it, but of a
	// directory what it is. Lstat and Resurvey don't heed it.
	Exclude *Exclude
}

// Inode is what Lstat knows of a name besides what a manifest keeps.
type Inode struct {
	Dev, Ino uint64
	Nlink    uint32
	CTime    int64 // nanoseconds since 1970
	Rdev     uint64
	Char     bool // a character device 0:0, overlay's whiteout; the entry has no Type
}

// Item is one name met by Walk.
type Item struct {
	Entry   snapshot.Entry
	Inode   Inode
	Special []snapshot.Xattr // trusted.overlay.*

	stop error // instead of an entry: why the listing ends here
}

// Scan records the tree at root, an existing directory. No file is opened: files
// have a Source, their absolute path, and no Chunks. Names of one regular file
// that lie in the tree share a Link; other hard-linked things (symlinks, fifos,
// sockets) are recorded one by one, since nobody can tell them apart. What a
// snapshot can't keep is a *snapshot.UnsupportedError that names the first such
// path. A tree that changes meanwhile gives an error or a mixture, never a hang.
func Scan(ctx context.Context, root string, o ScanOptions) (*snapshot.Manifest, error) {
	s, top, err := openSweep(root, o, false)
	if err != nil {
		return nil, err
	}
	defer s.t.close()
	if err := s.run(ctx); err != nil {
		return nil, fmt.Errorf("scan %s: %w", root, err)
	}
	m, err := s.manifest(&top)
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", root, err)
	}
	return m, nil
}

// Each is Scan for who does not want the whole tree in memory: it calls fn for each
// entry in the order of a manifest, while other directories are being read, and tells
// which inode it is. From these, and sizes and times, it is known later which files nobody
// has written to meanwhile. What fn is given is its own until it returns; strings and
// attributes it may keep.
//
// That a file has two names in the tree shows at the second, and fn has seen the first
// without a Link by then. firsts says which of its calls, counted from 0, should have
// had their own path as Link. An error of fn ends it and is returned as it is.
func Each(ctx context.Context, root string, o ScanOptions, fn func(e *snapshot.Entry, in *Inode) error) (firsts []int, err error) {
	s, top, err := openSweep(root, o, true)
	if err != nil {
		return nil, err
	}
	defer s.t.close()
	read := make(chan error, 1)
	go func() { read <- s.run(ctx) }()
	a := assembly{s: s, put: fn}
	err = a.all(&top)
	s.end()
	switch rerr := <-read; {
	case a.refused:
		return nil, err
	case rerr != nil:
		err = rerr
	}
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", root, err)
	}
	return a.firsts, nil
}

// openSweep prepares the reading of a tree, and describes its root. If there is no
// error the caller closes its t.
func openSweep(root string, o ScanOptions, inodes bool) (s *sweep, top Item, err error) {
	t, err := openTree(root)
	if err != nil {
		return nil, top, err
	}
	t.skipAttributes(o.Skip)
	if top, err = t.lstat("", o); err == nil {
		err = keepable(&top)
	}
	if err != nil {
		t.close()
		return nil, top, err
	}
	s = newSweep(t, o)
	s.inodes = inodes
	return s, top, nil
}

// Walk calls fn for each entry of the tree at root in the order of a manifest,
// the root first, with what Lstat would say of it; the item is fn's only until it
// returns. Link is not filled in. An entry that a snapshot can't keep ends the
// walk, but character devices 0:0 and trusted.overlay.* are handed to fn. An error
// of fn ends the walk and is returned as it is.
func Walk(ctx context.Context, root string, o ScanOptions, fn func(it *Item) error) error {
	t, err := openTree(root)
	if err != nil {
		return err
	}
	defer t.close()
	top, err := t.lstat("", o)
	if err != nil {
		return err
	}
	// A stack instead of recursion: each level holds the items of one directory
	// that are still to come, never an open descriptor.
	levels := [][]Item{{top}}
	for len(levels) > 0 {
		l := len(levels) - 1
		if len(levels[l]) == 0 {
			levels = levels[:l]
			continue
		}
		it := &levels[l][0]
		levels[l] = levels[l][1:]
		if err := ctx.Err(); err != nil {
			return err
		}
		if it.stop != nil {
			return it.stop
		}
		if err := fn(it); err != nil {
			return err
		}
		if it.Entry.Type != snapshot.TypeDir {
			continue
		}
		items, err := t.list(it.Entry.Path, o, nil)
		if err != nil {
			// What stands before the entry that stopped the listing comes first.
			items = append(items, Item{stop: fmt.Errorf("walk %s: %w", root, err)})
		}
		levels = append(levels, items)
	}
	return nil
}

// Lstat says of the name rel below root what Scan would record, without following
// any symlink. Link is not filled in. Xattrs hold user.* and POSIX ACLs; special
// holds trusted.overlay.*, which is the overlay driver's business. A character
// device 0:0 is no error but Inode.Char; other devices, file capabilities and
// other trusted.* and security.* attributes (save SELinux labels, which are
// ignored) are a *snapshot.UnsupportedError.
func Lstat(root, rel string, o ScanOptions) (e snapshot.Entry, ino Inode, special []snapshot.Xattr, err error) {
	t, err := openTree(root)
	if err != nil {
		return e, ino, nil, err
	}
	defer t.close()
	it, err := t.lstat(rel, o)
	return it.Entry, it.Inode, it.Special, err
}

// skipped tells o.Skip of an error if it is about something that can be left out.
func (o *ScanOptions) skipped(err error) bool {
	var e *snapshot.UnsupportedError
	if o.Skip == nil || !errors.As(err, &e) {
		return false
	}
	o.Skip(e)
	return true
}

// keepable refuses what only the overlay driver knows how to read.
func keepable(it *Item) error {
	if it.Inode.Char {
		return &snapshot.UnsupportedError{Path: it.Entry.Path, What: "character device"}
	}
	if len(it.Special) > 0 {
		return &snapshot.UnsupportedError{Path: it.Entry.Path, What: it.Special[0].Name + " attribute"}
	}
	return nil
}

// fits refuses names that no manifest may hold, before anything is built on them.
func fits(path, name string) error {
	if len(path) > snapshot.MaxPathBytes {
		return &snapshot.UnsupportedError{Path: path, What: fmt.Sprintf("path of %d bytes (the limit is %d)", len(path), snapshot.MaxPathBytes)}
	}
	if len(name) > snapshot.MaxNameBytes {
		return &snapshot.UnsupportedError{Path: path, What: fmt.Sprintf("name of %d bytes (the limit is %d)", len(name), snapshot.MaxNameBytes)}
	}
	return nil
}

// names makes the Source and the Path of each name in directory rel. All of them
// are cut out of one string, so that a directory costs one allocation and a Path
// none.
func (t *treeRoot) names(rel string, names []string) (sources, paths []string) {
	prefix := t.abs + "/"
	if strings.HasSuffix(t.abs, "/") {
		prefix = t.abs
	}
	cut := len(prefix)
	if rel != "" {
		prefix += rel + "/"
	}
	n := 0
	for _, s := range names {
		n += len(prefix) + len(s)
	}
	var b strings.Builder
	b.Grow(n)
	for _, s := range names {
		b.WriteString(prefix)
		b.WriteString(s)
	}
	all := b.String()
	sources = make([]string, len(names))
	paths = make([]string, len(names))
	for i, s := range names {
		sources[i] = all[:len(prefix)+len(s)]
		paths[i] = sources[i][cut:]
		all = all[len(sources[i]):]
	}
	return sources, paths
}

// absolute makes the prefix of every Source.
func absolute(root string) (string, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	return filepath.ToSlash(abs), nil
}
