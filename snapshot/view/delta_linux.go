package view

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Names and values by which the kernel's overlay marks entries.
const (
	overlayXattr = "trusted.overlay."
	opaqueXattr  = overlayXattr + "opaque"
	redirXattr   = overlayXattr + "redirect"
	metaXattr    = overlayXattr + "metacopy"
)

// delta writes a list of changes as one overlay layer.
type delta struct {
	p *placer
	// base is where the tree below the layer can be seen; it is asked for only
	// when a directory that is not among the changes must be in the layer, which
	// then has to look as in the base. nil: there is no base.
	base  func() (string, error)
	below *placer // the base, once it was asked for
	// file makes the i-th change, a regular file, the first of its link group.
	file func(i int, e *snapshot.Entry) error

	dirs   map[string]bool // directories of the layer
	opaque map[string]bool // those among them that hide what the base has
	links  linkGroups
	late   []snapshot.Entry // directories, whose times are set last; the root first
}

// newDelta starts a layer in an empty directory whose look is root's, unless the
// changes say how it is.
func newDelta(dir string, root snapshot.Entry, base func() (string, error)) (*delta, error) {
	p, err := newPlacer(dir, true)
	if err != nil {
		return nil, err
	}
	return &delta{
		p: p, base: base, dirs: map[string]bool{"": true},
		opaque: map[string]bool{}, links: linkGroups{}, late: []snapshot.Entry{root},
	}, nil
}

// write makes all entries. finish must follow.
func (w *delta) write(ctx context.Context, changes Changes) error {
	i := 0
	return changes(func(c *snapshot.Change) error {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := w.one(i, c); err != nil {
			return fmt.Errorf("%q: %w", c.Entry.Path, err)
		}
		i++
		return nil
	})
}

func (w *delta) one(i int, c *snapshot.Change) error {
	e := &c.Entry
	if e.Path == "" {
		if c.Delete || e.Type != snapshot.TypeDir {
			return errors.New("the root must stay a directory")
		}
		w.late[0] = *e
		return nil
	}
	dir, _, err := split(e.Path)
	if err != nil {
		return err
	}
	if err := w.parents(dir); err != nil {
		return err
	}
	if c.Delete {
		return w.hide(dir, e.Path)
	}
	switch e.Type {
	case snapshot.TypeDir:
		return w.dir(dir, c)
	case snapshot.TypeFile:
		first, err := w.links.first(e)
		if err != nil {
			return err
		}
		if first != "" {
			return w.p.link(first, e.Path)
		}
		return w.file(i, e)
	case snapshot.TypeSymlink:
		if err := w.p.symlink(e.Target, e.Path); err != nil {
			return err
		}
		return w.p.meta(e.Path, e)
	case snapshot.TypeFifo, snapshot.TypeSocket:
		if err := w.p.node(e.Path, e.Type); err != nil {
			return err
		}
		return w.p.meta(e.Path, e)
	}
	return &snapshot.UnsupportedError{Path: e.Path, What: e.Type.String() + " entry"}
}

// hide deletes what the base has at rel. Where it has nothing there must be no
// whiteout: in a directory that is not merged it would be seen as a device.
func (w *delta) hide(dir, rel string) error {
	if w.opaque[dir] || w.base == nil {
		return nil
	}
	if w.below == nil {
		base, err := w.base()
		if err != nil {
			return err
		}
		if w.below, err = newPlacer(base, false); err != nil {
			return err
		}
	}
	there, err := w.below.has(rel)
	if err != nil || !there {
		return err
	}
	return w.p.whiteout(rel)
}

// release lets go of the base, which can be unmounted then.
func (w *delta) release() {
	if w.below != nil {
		w.below.close()
		w.below = nil
	}
}

func (w *delta) dir(parent string, c *snapshot.Change) error {
	e := &c.Entry
	if err := w.p.mkdir(e.Path); err != nil {
		return err
	}
	w.dirs[e.Path] = true
	w.late = append(w.late, *e)
	if w.opaque[parent] {
		w.opaque[e.Path] = true
		return nil // nothing of the base can be here
	}
	if c.Replace {
		w.opaque[e.Path] = true
		return w.p.setOpaque(e.Path)
	}
	return nil
}

// parents makes the directories on the way that the changes do not list. They
// exist in the base, and the layer's must look the same: an overlay shows the
// topmost.
func (w *delta) parents(dir string) error {
	if w.dirs[dir] {
		return nil
	}
	up := path.Dir(dir)
	if up == "." {
		up = ""
	}
	if err := w.parents(up); err != nil {
		return err
	}
	if w.base == nil || w.opaque[up] {
		return fmt.Errorf("its directory %q does not exist", dir)
	}
	base, err := w.base()
	if err != nil {
		return err
	}
	e, _, _, err := tree.Lstat(base, dir, tree.ScanOptions{Owners: true})
	if err != nil {
		return fmt.Errorf("its directory %q: %w", dir, err)
	}
	if e.Type != snapshot.TypeDir {
		return fmt.Errorf("its directory %q is a %s", dir, e.Type)
	}
	if err := w.p.mkdir(dir); err != nil {
		return err
	}
	w.dirs[dir] = true
	e.Path = dir
	w.late = append(w.late, e)
	return nil
}

// finish gives directories their look, the deepest first, and lets go.
func (w *delta) finish() error {
	for _, e := range slices.Backward(w.late) {
		if err := w.p.meta(e.Path, &e); err != nil {
			return err
		}
	}
	return nil
}

// whiteout makes the mark that hides a name of the layers below.
func (p *placer) whiteout(rel string) error {
	fd, name, err := p.at(rel)
	if err != nil {
		return err
	}
	return p.wrap("whiteout", rel, unix.Mknodat(fd, name, unix.S_IFCHR, 0))
}

func (p *placer) setOpaque(rel string) error {
	f, err := p.open(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a directory
	return p.wrap("set opaque", rel, unix.Fsetxattr(int(f.Fd()), opaqueXattr, []byte("y"), 0))
}
