package view

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// cloneOptions of cloneTree.
type cloneOptions struct {
	from, to string // directories; to is empty
	owners   bool
	meter    *Meter
	// mode says what a path's mode really is, where the copy on disk had to be
	// given another. nil: as on disk.
	mode func(path string, onDisk uint32) uint32
	// content fills files. nil: by sharing extents where that works, else by copying.
	content contentFunc
}

// builder fills a private directory with a tree. Directories stay open to us
// (0700) and get their look at the end, when nothing touches their times any more.
type builder struct {
	p       *placer
	meter   *Meter
	dirs    map[string]snapshot.Entry
	content contentFunc
	// stamps, unless nil, is told by clone the stamps of the files it makes; a clone that
	// can't do that sets it to nil.
	stamps *metaWriter
	// hidden is filled with the modes of what its owner could not read; it is made
	// readable on disk. nil: all looks on disk as it says.
	hidden modes
}

// look returns e as it is to be on disk.
func (b *builder) look(e *snapshot.Entry) *snapshot.Entry {
	if b.hidden == nil {
		return e
	}
	mode, differs := unreadable(e.Type, e.Mode)
	if !differs {
		delete(b.hidden, e.Path)
		return e
	}
	b.hidden[e.Path] = e.Mode
	on := *e
	on.Mode = mode
	return &on
}

// link gives a file a further name.
func (b *builder) link(first string, e *snapshot.Entry) error {
	if mode, ok := b.hidden[first]; ok {
		b.hidden[e.Path] = mode
	}
	return b.p.link(first, e.Path)
}

// drop removes what is at p and forgets all below it.
func (b *builder) drop(ctx context.Context, l layout, p string) error {
	if err := b.p.removeAll(ctx, l, p); err != nil {
		return err
	}
	gone := func(q string) bool { return q == p || under(q, p) }
	delete(b.hidden, p)
	if _, isDir := b.dirs[p]; isDir {
		maps.DeleteFunc(b.dirs, func(q string, _ snapshot.Entry) bool { return gone(q) })
		maps.DeleteFunc(b.hidden, func(q string, _ uint32) bool { return gone(q) })
	}
	return nil
}

func newBuilder(dir string, owners bool, m *Meter) (*builder, error) {
	p, err := newPlacer(dir, owners)
	if err != nil {
		return nil, err
	}
	return &builder{p: p, meter: m, dirs: map[string]snapshot.Entry{}, content: copyContent}, nil
}

// cloneTree copies a whole tree, looks of directories included.
func cloneTree(ctx context.Context, o cloneOptions) error {
	b, err := newBuilder(o.to, o.owners, o.meter)
	if err != nil {
		return err
	}
	defer b.p.close()
	if o.content != nil {
		b.content = o.content
	}
	if err := b.clone(ctx, o.from, o.mode); err != nil {
		return err
	}
	return b.finish()
}

type inodeKey struct{ dev, ino uint64 }

// place makes one entry at a free name. content fills a file.
func (b *builder) place(e *snapshot.Entry, content func(*os.File) error) error {
	switch e.Type {
	case snapshot.TypeDir:
		b.dirs[e.Path] = *e
		if e.Path == "" {
			return nil
		}
		return b.p.mkdir(e.Path)
	case snapshot.TypeFile:
		f, err := b.p.create(e.Path)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // synced as a whole, where errors are seen
		if err := content(f); err != nil {
			return err
		}
		return b.p.metaFD(f, b.look(e))
	case snapshot.TypeSymlink:
		if err := b.p.symlink(e.Target, e.Path); err != nil {
			return err
		}
		return b.p.meta(e.Path, e)
	case snapshot.TypeFifo, snapshot.TypeSocket:
		if err := b.p.node(e.Path, e.Type); err != nil {
			return err
		}
		return b.p.meta(e.Path, e)
	}
	return &snapshot.UnsupportedError{Path: e.Path, What: e.Type.String() + " entry"}
}

// finish gives the directories their look, the deepest first.
func (b *builder) finish() error {
	paths := slices.SortedFunc(maps.Keys(b.dirs), snapshot.ComparePaths)
	for _, p := range slices.Backward(paths) {
		e := b.dirs[p]
		if err := b.p.meta(p, b.look(&e)); err != nil {
			return err
		}
	}
	return nil
}

// changedBy reports whether sorted changes make or delete what is at p. If not, and it
// is there, it is the base's.
func changedBy(changes []snapshot.Change, p string) bool {
	for at, up := p, false; ; at, up = path.Dir(at), true {
		if at == "." {
			at = ""
		}
		i, ok := slices.BinarySearchFunc(changes, at, func(c snapshot.Change, at string) int {
			return snapshot.ComparePaths(c.Entry.Path, at)
		})
		switch {
		case !ok:
		case !up, changes[i].Delete, changes[i].Replace, changes[i].Entry.Type != snapshot.TypeDir:
			return true
		}
		if at == "" {
			return false
		}
	}
}

// linkGroups knows the first name of each hard-linked file among changes.
type linkGroups map[string]*snapshot.Entry

// first returns the name that e must be linked to, "" when e is the first itself.
// Entries say everything, so what they say of one file must agree.
func (g linkGroups) first(e *snapshot.Entry) (string, error) {
	if e.Link == "" {
		return "", nil
	}
	if _, _, err := split(e.Link); err != nil {
		return "", fmt.Errorf("hard link: %w", err)
	}
	f, ok := g[e.Link]
	if !ok {
		kept := *e
		g[e.Link] = &kept
		return "", nil
	}
	if f.Size != e.Size || (f.Chunks != nil && e.Chunks != nil && !f.SameContent(e)) {
		return "", fmt.Errorf("hard link: %q is the same file with other content", f.Path)
	}
	return f.Path, nil
}

// apply makes changes to the tree that was built so far. file makes the regular
// file of changes[i], the first of its link group.
func (b *builder) apply(ctx context.Context, l layout, changes []snapshot.Change, file func(i int, e *snapshot.Entry) error) error {
	links := linkGroups{}
	for i := range changes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.change(ctx, l, i, changes, links, file); err != nil {
			return fmt.Errorf("%q: %w", changes[i].Entry.Path, err)
		}
	}
	return nil
}

func (b *builder) change(ctx context.Context, l layout, i int, changes []snapshot.Change, links linkGroups,
	file func(i int, e *snapshot.Entry) error,
) error {
	c := &changes[i]
	e := &c.Entry
	if e.Path == "" {
		if c.Delete || e.Type != snapshot.TypeDir {
			return errors.New("the root must stay a directory")
		}
		b.dirs[""] = *e
		return nil
	}
	dir, _, err := split(e.Path)
	if err != nil {
		return err
	}
	if _, ok := b.dirs[dir]; !ok {
		return fmt.Errorf("its directory %q does not exist", dir)
	}
	_, isDir := b.dirs[e.Path]
	if isDir && e.Type == snapshot.TypeDir && !c.Delete && !c.Replace {
		b.dirs[e.Path] = *e
		return nil
	}
	// Nothing to delete is no error: two lists of changes composed may delete what
	// only the first of them had made.
	if err := b.drop(ctx, l, e.Path); err != nil {
		return err
	}
	if c.Delete {
		return nil
	}
	if e.Type != snapshot.TypeFile {
		return b.place(e, nil)
	}
	first, err := links.first(e)
	if err != nil {
		return err
	}
	if first == "" && e.Link != "" && !changedBy(changes, e.Link) && b.p.fileOf(e.Link, e.Size) {
		// The group has names that did not change: they are still here.
		first = e.Link
	}
	if first == "" {
		return file(i, e)
	}
	return b.link(first, e)
}
