package view

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// upperItem is an entry of an upper directory.
type upperItem struct {
	entry snapshot.Entry
	note
}

// note is what an entry of an upper directory says beside what a manifest keeps. Most
// say nothing.
type note struct {
	marks
	char bool  // 0:0: it hides what is below
	file group // of a file with several names
}

// marks of one entry of an upper.
type marks struct {
	opaque, metacopy bool
	redirect         string
}

// group tells files with several names apart: by their Link in the base, or by their
// inode in the upper. The zero group is a file with one name.
type group struct {
	link     string
	dev, ino uint64
}

// cursor is a list of entries on its way, in the order of a manifest.
type cursor struct {
	e    *snapshot.Entry // the current one, good until the next step; nil behind the last
	step func()
}

func entriesOf(es []snapshot.Entry) *cursor {
	c := &cursor{}
	c.step = func() {
		if c.e = nil; len(es) > 0 {
			c.e, es = &es[0], es[1:]
		}
	}
	c.step()
	return c
}

// in reports whether the current entry lies below dir.
func (c *cursor) in(dir string) bool { return c.e != nil && under(c.e.Path, dir) }

// skip goes on behind the current entry and all below it.
func (c *cursor) skip() {
	top := c.e.Path
	for c.step(); c.in(top); c.step() {
	}
}

// itemCursor is that of an upper.
type itemCursor struct {
	it   *upperItem
	step func()
}

func itemsOf(items []upperItem) *itemCursor {
	c := &itemCursor{}
	c.step = func() {
		if c.it = nil; len(items) > 0 {
			c.it, items = &items[0], items[1:]
		}
	}
	c.step()
	return c
}

// laying lays an upper directory over the tree below it, as the kernel does when it is
// mounted:
//
//   - a character device 0:0 hides the name below;
//   - a directory without marks is merged with the directory of its name in what
//     its parent is merged with (its origin);
//   - opaque=y: a directory that hides what is below. The kernel also sets it on
//     every new directory in a merged one, so it says nothing about change;
//   - redirect=name or /path on a directory: its origin is the sibling of that name
//     below, or that path from the root: it was renamed;
//   - metacopy on a file: its content is that of the file of its name below, or of
//     the one that redirect names.
//
// Both are gone through once, in order; only what was renamed is looked up.
type laying struct {
	items *itemCursor
	base  *cursor
	far   far // what redirects lead to in the base
	// put is told of each entry of the result, in order, and which file it is. Link is
	// what it was in the base.
	put func(e *snapshot.Entry, g group) error
}

func (y *laying) run() error {
	if y.base.e != nil && y.base.e.Path == "" {
		y.base.step() // the root is the upper's
	}
	return y.dir("", "", y.base)
}

// dir puts the current item, a directory that appears at at, and all below it. It is
// merged with the directory origin of the base, unless from is nil: from is at the first
// entry below that, and behind the last one afterwards.
func (y *laying) dir(at, origin string, from *cursor) error {
	if err := y.put(&y.items.it.entry, group{}); err != nil {
		return err
	}
	y.items.step()
	for y.items.it != nil && under(y.items.it.entry.Path, at) {
		name := path.Base(y.items.it.entry.Path)
		for from != nil && from.in(origin) && path.Base(from.e.Path) < name {
			if err := y.take(from, origin, at); err != nil {
				return err
			}
		}
		if err := y.entry(name, origin, from); err != nil {
			return err
		}
	}
	for from != nil && from.in(origin) {
		if err := y.take(from, origin, at); err != nil {
			return err
		}
	}
	return nil
}

// take puts the base's entry and all below it, as it looks when origin appears at at.
func (y *laying) take(from *cursor, origin, at string) error {
	top := from.e.Path
	for first := true; first || from.in(top); first = false {
		e := *from.e
		if origin != at {
			e.Path = rebase(e.Path, origin, at)
		}
		if err := y.put(&e, group{link: e.Link}); err != nil {
			return err
		}
		from.step()
	}
	return nil
}

// entry puts the current item and all below it, and goes on behind what the base has at
// its name.
func (y *laying) entry(name, origin string, from *cursor) error {
	it := y.items.it
	has := from != nil && from.in(origin) && path.Base(from.e.Path) == name
	if it.char {
		y.items.step()
		if has {
			from.skip()
		}
		return nil
	}
	on, stands := below(it.marks, name, origin, from != nil)
	if it.entry.Type == snapshot.TypeDir {
		if has && stands && !it.opaque && on == from.e.Path && from.e.Type == snapshot.TypeDir {
			from.step()
			return y.dir(it.entry.Path, on, from)
		}
		if has {
			from.skip()
		}
		return y.farDir(it, on, stands && !it.opaque)
	}
	if it.entry.Type == snapshot.TypeFile {
		if err := y.file(it, on, stands, from, has); err != nil {
			return err
		}
	} else if err := y.put(&it.entry, group{}); err != nil {
		return err
	}
	y.items.step()
	if has {
		from.skip()
	}
	return nil
}

// farDir is dir of one that is not merged with the directory that it replaces.
func (y *laying) farDir(it *upperItem, on string, stands bool) error {
	at := it.entry.Path
	if !stands || it.redirect == "" {
		return y.dir(at, on, nil)
	}
	b := y.far.find(on)
	if b == nil || b.Type != snapshot.TypeDir {
		return &snapshot.CorruptError{
			What: "layer", Name: at,
			Why: fmt.Sprintf("it was renamed from %q, which is no directory of its base", on),
		}
	}
	from, done := y.far.under(on)
	return errors.Join(y.dir(at, on, from), done())
}

// file puts a file, which may have its content from the base.
func (y *laying) file(it *upperItem, on string, stands bool, from *cursor, has bool) error {
	if !it.metacopy {
		return y.put(&it.entry, it.file)
	}
	e := it.entry
	var b *snapshot.Entry
	if has && on == from.e.Path {
		b = from.e
	} else if it.redirect != "" {
		b = y.far.find(on)
	}
	if !stands || b == nil || b.Type != snapshot.TypeFile || b.Size != e.Size {
		return &snapshot.CorruptError{
			What: "layer", Name: e.Path,
			Why: fmt.Sprintf("its content is that of %q, which is no such file of its base", on),
		}
	}
	e.Source, e.SourceAt, e.Chunks = b.Source, b.SourceAt, b.Chunks
	return y.put(&e, it.file)
}

// below returns the path in the base that an entry stands on. origin is where
// its directory stands, has whether it does.
func below(m marks, name, origin string, has bool) (string, bool) {
	if abs, ok := strings.CutPrefix(m.redirect, "/"); ok {
		return abs, true
	}
	if !has {
		return "", false
	}
	if m.redirect != "" {
		name = m.redirect
	}
	return path.Join(origin, name), true
}

// rebase moves a path below from to below to.
func rebase(p, from, to string) string {
	rel := p
	if from != "" {
		rel = p[len(from)+1:]
	}
	return path.Join(to, rel)
}
