package view

import (
	"context"
	"fmt"
	"path"
	"slices"
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
	quiet.Step(ctx)
	return tree.Diff(base, t), nil
}

func (d *Overlay) treeOf(ctx context.Context, l *Layer, base *snapshot.Manifest) (*snapshot.Manifest, error) {
	if base == nil {
		base = &snapshot.Manifest{}
	}
	u := upperTree{base: base.Entries, man: base}
	err := tree.Walk(ctx, d.abs(l.Dir), d.scan(), func(it *tree.Item) error {
		if len(u.items)%256 == 0 {
			quiet.Step(ctx)
		}
		u.items = append(u.items, *it)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(u.items) == 0 || u.items[0].Entry.Path != "" {
		return nil, fmt.Errorf("%s has no root", l.Dir)
	}
	quiet.Step(ctx)
	u.out = make([]snapshot.Entry, 0, len(u.base)+len(u.items))
	u.groups = make([]string, 0, cap(u.out))
	if _, err := u.dir(0, "", "", true); err != nil {
		return nil, err
	}
	quiet.Step(ctx)
	return &snapshot.Manifest{Entries: u.finish()}, nil
}

// upperTree lays an upper directory over the manifest below it, as the kernel
// does when it is mounted:
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
type upperTree struct {
	man    *snapshot.Manifest
	base   []snapshot.Entry
	items  []tree.Item // the upper, in the order of a manifest
	out    []snapshot.Entry
	groups []string // of out: which names are one file, "" for one name
}

// marks of one entry of an upper.
type marks struct {
	opaque, metacopy bool
	redirect         string
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

// dir emits the directory items[i], which appears at at, and all below it. origin
// is the directory of the base that it is merged with, if it has one. It returns
// the index behind the last item below it.
func (u *upperTree) dir(i int, at, origin string, has bool) (int, error) {
	e := u.items[i].Entry
	u.emit(e, "")
	lo, hi := 0, 0
	if has {
		lo, hi = u.span(origin)
	}
	i++
	for i < len(u.items) && under(u.items[i].Entry.Path, at) {
		name := path.Base(u.items[i].Entry.Path)
		lo = u.inherit(lo, hi, origin, at, name)
		if lo < hi && path.Base(u.base[lo].Path) == name {
			lo = u.skip(lo, hi) // the upper decides
		}
		next, err := u.entry(i, name, origin, has)
		if err != nil {
			return 0, err
		}
		i = next
	}
	for lo < hi {
		lo = u.take(lo, hi, origin, at)
	}
	return i, nil
}

// inherit emits what the base has in a directory before name.
func (u *upperTree) inherit(lo, hi int, origin, at, name string) int {
	for lo < hi && path.Base(u.base[lo].Path) < name {
		lo = u.take(lo, hi, origin, at)
	}
	return lo
}

// take emits the base's entry at lo with all below it, as it looks when origin
// appears at at, and returns the index behind it.
func (u *upperTree) take(lo, hi int, origin, at string) int {
	end := u.skip(lo, hi)
	for ; lo < end; lo++ {
		e := u.base[lo]
		if origin != at {
			e.Path = rebase(e.Path, origin, at)
		}
		u.out = append(u.out, e)
		group := ""
		if e.Link != "" {
			group = "base:" + e.Link
		}
		u.groups = append(u.groups, group)
	}
	return end
}

// skip returns the index behind the base's entry at lo and all below it.
func (u *upperTree) skip(lo, hi int) int {
	p := u.base[lo].Path
	for lo++; lo < hi && under(u.base[lo].Path, p); lo++ {
	}
	return lo
}

// span returns where the entries below the base's directory at origin stand.
func (u *upperTree) span(origin string) (lo, hi int) {
	below := u.man.Under(origin)
	if len(below) == 0 {
		return 0, 0
	}
	lo = u.index(below[0].Path)
	return lo, lo + len(below)
}

func (u *upperTree) index(p string) int {
	i, _ := slices.BinarySearchFunc(u.base, p, func(e snapshot.Entry, p string) int {
		return snapshot.ComparePaths(e.Path, p)
	})
	return i
}

// entry emits the upper's entry at i and all below it.
func (u *upperTree) entry(i int, name, origin string, has bool) (int, error) {
	it := &u.items[i]
	if it.Inode.Char {
		return i + 1, nil
	}
	m, err := readMarks(it)
	if err != nil {
		return 0, err
	}
	on, stands := below(m, name, origin, has)
	switch it.Entry.Type {
	case snapshot.TypeDir:
		if stands = stands && !m.opaque; stands {
			b, ok := u.man.Find(on)
			stands = ok && b.Type == snapshot.TypeDir
			if !stands && m.redirect != "" {
				return 0, &snapshot.CorruptError{
					What: "layer", Name: it.Entry.Path,
					Why: fmt.Sprintf("it was renamed from %q, which is no directory of its base", on),
				}
			}
		}
		return u.dir(i, it.Entry.Path, on, stands)
	case snapshot.TypeFile:
		e := it.Entry
		if m.metacopy {
			b, ok := u.man.Find(on)
			if !stands || !ok || b.Type != snapshot.TypeFile || b.Size != e.Size {
				return 0, &snapshot.CorruptError{
					What: "layer", Name: e.Path,
					Why: fmt.Sprintf("its content is that of %q, which is no such file of its base", on),
				}
			}
			e.Source, e.SourceAt, e.Chunks = b.Source, b.SourceAt, b.Chunks
		}
		group := ""
		if it.Inode.Nlink > 1 {
			group = fmt.Sprintf("upper:%d:%d", it.Inode.Dev, it.Inode.Ino)
		}
		u.emit(e, group)
	default:
		u.emit(it.Entry, "")
	}
	return i + 1, nil
}

func (u *upperTree) emit(e snapshot.Entry, group string) {
	u.out, u.groups = append(u.out, e), append(u.groups, group)
}

// finish names each group of hard links after its first path that is left.
func (u *upperTree) finish() []snapshot.Entry {
	return nameGroups(u.out, u.groups)
}

// rebase moves a path below from to below to.
func rebase(p, from, to string) string {
	rel := p
	if from != "" {
		rel = p[len(from)+1:]
	}
	return path.Join(to, rel)
}
