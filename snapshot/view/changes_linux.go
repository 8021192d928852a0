package view

import (
	"context"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Changes implements Driver. It reads the upper directory only, which has what
// the job touched, and looks up the rest in base: the result is the exact tree,
// whose difference to base is what is returned.
func (d *Overlay) Changes(ctx context.Context, l *Layer, base *snapshot.Manifest) ([]snapshot.Change, error) {
	if err := checkLayer(l); err != nil {
		return nil, err
	}
	t, err := d.treeOf(ctx, l, base)
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", l.ID, err)
	}
	return tree.DiffAside(ctx, base, t), nil
}

// List implements Lister.
func (d *Erofs) List(ctx context.Context, l *Layer, list Entries) (Listed, error) {
	if err := d.checkOwnTree(l); err != nil {
		return nil, err
	}
	return d.Overlay.List(ctx, l, list)
}

// ListsAll implements Lister.
func (d *Overlay) ListsAll() bool { return false }

// List implements Lister.
func (d *Overlay) List(ctx context.Context, l *Layer, list Entries) (Listed, error) {
	if err := checkLayer(l); err != nil {
		return nil, err
	}
	t := &Touched{list: list, prefix: d.abs(l.Dir) + "/", notes: map[int]note{}, far: map[string]bool{}, farMost: d.o.FarMost}
	var o origins
	err := d.eachTouched(ctx, l, func(it *upperItem) error {
		if it.note != (note{}) {
			t.notes[t.n] = it.note
		}
		if it.char { // which has no type, and needs but a place in the list
			it.entry.Type = snapshot.TypeFifo
		} else if on := o.enter(it); it.redirect != "" {
			t.far[on] = it.entry.Type == snapshot.TypeDir
		}
		t.n++
		return list.Append(&it.entry)
	})
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", l.ID, err)
	}
	return t, nil
}

func (d *Overlay) treeOf(ctx context.Context, l *Layer, base *snapshot.Manifest) (*snapshot.Manifest, error) {
	if base == nil {
		base = &snapshot.Manifest{}
	}
	var items []upperItem
	if err := d.eachTouched(ctx, l, func(it *upperItem) error {
		items = append(items, *it)
		return nil
	}); err != nil {
		return nil, err
	}
	step := quiet.Pace(ctx)
	out := make([]snapshot.Entry, 0, len(base.Entries)+len(items))
	groups := make([]group, 0, cap(out))
	y := laying{
		items: itemsOf(items), base: entriesOf(base.Entries), far: far{near: base},
		put: func(e *snapshot.Entry, g group) error {
			if len(out)%512 == 0 {
				step()
			}
			out, groups = append(out, *e), append(groups, g)
			return nil
		},
	}
	if err := y.run(); err != nil {
		return nil, err
	}
	quiet.Step(ctx)
	return &snapshot.Manifest{Entries: nameGroups(out, groups)}, nil
}

// eachTouched calls fn for each entry of l's upper directory, in the order of a manifest.
func (d *Overlay) eachTouched(ctx context.Context, l *Layer, fn func(it *upperItem) error) error {
	n := 0
	err := tree.Walk(ctx, d.abs(l.Dir), d.scan(), func(it *tree.Item) error {
		if n%256 == 0 {
			quiet.Step(ctx)
		}
		if n++; n == 1 && it.Entry.Path != "" {
			return fmt.Errorf("%s has no root", l.Dir)
		}
		u := upperItem{entry: it.Entry, note: note{char: it.Inode.Char}}
		if n > 1 && !it.Inode.Char {
			var err error
			if u.marks, err = readMarks(it); err != nil {
				return err
			}
		}
		if it.Entry.Type == snapshot.TypeFile && it.Inode.Nlink > 1 {
			u.file = group{dev: it.Inode.Dev, ino: it.Inode.Ino}
		}
		return fn(&u)
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("%s has no root", l.Dir)
	}
	return err
}

// readMarks refuses what is neither a mark that we understand nor one that says
// nothing of content.
func readMarks(it *tree.Item) (marks, error) {
	var m marks
	for _, x := range it.Special {
		switch name := strings.TrimPrefix(x.Name, overlayXattr); name {
		case "impure", "origin", "uuid":
		case "protattr":
			// chattr +i or +a. A manifest does not keep it, nor does a copy.
		case "opaque":
			if string(x.Value) != "y" {
				return m, unsupported(it, "directory with hidden files marked by attribute")
			}
			m.opaque = true
		case "redirect":
			m.redirect = string(x.Value)
			if !validRedirect(m.redirect) {
				return m, unsupported(it, fmt.Sprintf("redirect to %.100q", m.redirect))
			}
		case "metacopy":
			if len(x.Value) > 4 {
				return m, unsupported(it, "file verified by fs-verity")
			}
			m.metacopy = true
		default:
			return m, unsupported(it, "extended attribute "+x.Name)
		}
	}
	return m, nil
}

func unsupported(it *tree.Item, what string) error {
	return &snapshot.UnsupportedError{Path: it.Entry.Path, What: what}
}

// validRedirect accepts one name, or an absolute path without tricks.
func validRedirect(r string) bool {
	rel, absolute := strings.CutPrefix(r, "/")
	if !absolute && strings.Contains(r, "/") {
		return false
	}
	_, _, err := split(rel)
	return err == nil
}
