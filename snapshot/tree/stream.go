package tree

import (
	"errors"
	"iter"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Tree calls fn for each entry of a tree, in the order of a manifest, and returns fn's
// first error as it is. It can be called again, and says the same then. What fn is given
// is fn's only until it returns; strings, chunks and attributes may be kept.
type Tree func(fn func(e *snapshot.Entry) error) error

// Of is a tree that is in memory. nil is the tree of nothing.
func Of(m *snapshot.Manifest) Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		es := entries(m)
		var e snapshot.Entry // one for all: fn has it until it returns
		for i := range es {
			e = es[i]
			if err := fn(&e); err != nil {
				return err
			}
		}
		return nil
	}
}

// Manifest has the tree in memory; n is about how many entries it has.
func (t Tree) Manifest(n int) (*snapshot.Manifest, error) {
	m := &snapshot.Manifest{Entries: make([]snapshot.Entry, 0, n)}
	return m, t(func(e *snapshot.Entry) error {
		m.Entries = append(m.Entries, *e)
		return nil
	})
}

// Changes calls fn for each change of a list, as Tree does for entries.
type Changes func(fn func(c *snapshot.Change) error) error

// ChangesOf is a list that is in memory.
func ChangesOf(list []snapshot.Change) Changes {
	return func(fn func(c *snapshot.Change) error) error {
		for i := range list {
			c := list[i]
			if err := fn(&c); err != nil {
				return err
			}
		}
		return nil
	}
}

// List has the changes in memory.
func (c Changes) List() (list []snapshot.Change, err error) {
	return list, c(func(c *snapshot.Change) error {
		list = append(list, *c)
		return nil
	})
}

// Over is base (nil: nothing) with changes that, as Diff's do, name every entry whose
// Link changed. Neither is in memory, or checked.
func Over(base Tree, changes Changes) Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		ch := pull(changes)
		defer ch.stop()
		o := overlaying{ch: ch, fn: fn}
		err := ch.step()
		if err == nil && base != nil {
			err = base(o.entry)
		}
		for err == nil && len(ch.left) > 0 {
			err = o.change()
		}
		return err
	}
}

// overlaying is an Over under way.
type overlaying struct {
	ch   *pages[snapshot.Change]
	fn   func(e *snapshot.Entry) error
	gone topmost // where the changes leave nothing of the base
}

// entry is told of the base's next entry.
func (o *overlaying) entry(e *snapshot.Entry) error {
	if o.gone.covers(e.Path) {
		return nil
	}
	for len(o.ch.left) > 0 {
		c := &o.ch.left[0]
		order := comparePaths(c.Entry.Path, e.Path)
		if order > 0 {
			break
		}
		if order == 0 && (c.Delete || c.Replace || c.Entry.Type != snapshot.TypeDir) {
			o.gone.add(e.Path)
		}
		if err := o.change(); err != nil || order == 0 {
			return err
		}
	}
	return o.fn(e)
}

// change makes the next change.
func (o *overlaying) change() error {
	if c := &o.ch.left[0]; !c.Delete {
		if err := o.fn(&c.Entry); err != nil {
			return err
		}
	}
	return o.ch.step()
}

// pageItems is how much is read ahead at once: to change over to whoever reads costs
// more than an item.
const pageItems = 256

// pages is what a function hands on one by one, for who goes through it beside others.
type pages[T any] struct {
	left []T // of what was read ahead, the current item first; none behind the last
	next func() ([]T, bool)
	stop func()
	err  error
}

// errEnough ends a walk that nobody goes on with.
var errEnough = errors.New("enough")

// pull begins before the first item. The caller calls stop in the end.
func pull[T any](each func(fn func(x *T) error) error) *pages[T] {
	p := &pages[T]{}
	p.next, p.stop = iter.Pull(func(yield func([]T) bool) {
		page := make([]T, 0, pageItems)
		p.err = each(func(x *T) error {
			if page = append(page, *x); len(page) < cap(page) {
				return nil
			}
			if !yield(page) {
				return errEnough
			}
			page = page[:0]
			return nil
		})
		if p.err == nil && len(page) > 0 {
			yield(page)
		}
	})
	return p
}

// step goes to the next item.
func (p *pages[T]) step() error {
	if len(p.left) > 1 {
		p.left = p.left[1:]
		return nil
	}
	p.left, _ = p.next()
	if len(p.left) == 0 {
		return p.err
	}
	return nil
}

// topmost remembers, of paths added in order, the last one that is not below
// another.
type topmost struct {
	path string
	any  bool
}

func (t *topmost) add(path string) {
	if !t.covers(path) {
		t.path, t.any = path, true
	}
}

// covers reports whether path lies strictly below the one remembered.
func (t *topmost) covers(path string) bool { return t.any && below(path, t.path) }

// Without is t without these paths, sorted, and what is below them; the root stays. Hard
// links have a name less.
func Without(t Tree, paths []string) (Tree, error) {
	if len(paths) == 0 {
		return t, nil
	}
	w := without{names: map[string]naming{}}
	var last topmost
	for _, p := range paths {
		if p != "" && !last.covers(p) {
			last.add(p)
			w.paths = append(w.paths, p)
		}
	}
	err := t(func(e *snapshot.Entry) error {
		if e.Link == "" || w.gone(e.Path) {
			return nil
		}
		n, more := w.names[e.Link]
		if !more {
			n.first = e.Path
		}
		w.names[e.Link] = naming{n.first, more}
		return nil
	})
	return func(fn func(e *snapshot.Entry) error) error {
		return t(func(e *snapshot.Entry) error {
			if w.gone(e.Path) {
				return nil
			}
			e.Link = w.link(e.Link)
			return fn(e)
		})
	}, err
}

// without is what Without takes out, and what becomes of hard links.
type without struct {
	paths []string          // none below another
	names map[string]naming // by Link: what is left of the group
}

// naming is a group of hard links: its first name, and whether it has more.
type naming struct {
	first string
	more  bool
}

func (w *without) gone(path string) bool {
	i, found := slices.BinarySearchFunc(w.paths, path, comparePaths)
	return found || i > 0 && below(path, w.paths[i-1])
}

func (w *without) link(was string) string {
	if n := w.names[was]; was != "" && n.more {
		return n.first
	}
	return ""
}
