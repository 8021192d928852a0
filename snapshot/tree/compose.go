package tree

import (
	"sort"

	"github.com/roost-ci/roost/snapshot"
)

// Compose returns one list of changes that does to a tree what a and then b do.
// It does not know the tree, so the list may delete what is not there or put back
// what was there before. It is exact for lists that, as Diff's do, name every
// entry whose Link changed; of others a name may be left out of a group of hard
// links that it belongs to.
func Compose(a, b []snapshot.Change) []snapshot.Change {
	c := composing{out: make([]snapshot.Change, 0, len(a)+len(b))}
	links := newRelinking(a, b)
	for len(a) > 0 || len(b) > 0 {
		switch o := compareChanges(a, b); {
		case o < 0:
			if !c.gone.covers(a[0].Entry.Path) {
				c.add(links.first(a[0]))
			}
			a = a[1:]
		case o > 0:
			c.clear(b[0])
			c.add(links.second(b[0]))
			b = b[1:]
		default:
			c.clear(b[0])
			c.add(links.second(onto(a[0], b[0])))
			a, b = a[1:], b[1:]
		}
	}
	return c.out
}

// composing is a Compose under way.
type composing struct {
	out  []snapshot.Change
	gone topmost // where b leaves nothing of a
	anew topmost // where out leaves nothing of the base
}

// clear notes that what a made below b's path is gone.
func (c *composing) clear(b snapshot.Change) {
	if b.Delete || b.Replace || b.Entry.Type != snapshot.TypeDir {
		c.gone.add(b.Entry.Path)
	}
}

func (c *composing) add(ch snapshot.Change) {
	if ch.Delete && c.anew.covers(ch.Entry.Path) {
		return
	}
	if ch.Replace {
		c.anew.add(ch.Entry.Path)
	}
	c.out = append(c.out, ch)
}

// onto is what change b makes of change a of the same path.
func onto(a, b snapshot.Change) snapshot.Change {
	if b.Delete || b.Entry.Type != snapshot.TypeDir {
		return b
	}
	// Unless a left a directory a directory, what the base had below it is gone.
	b.Replace = b.Replace || a.Delete || a.Replace || a.Entry.Type != snapshot.TypeDir
	return b
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

// relinking keeps the groups of two lists apart where the same path is another
// file in each.
type relinking struct {
	a, b []snapshot.Change
	// heads are new first names of a's groups whose first name b changed.
	heads map[string]string
	// joined are paths of a, single files there, to which b adds a name.
	joined map[string]bool
}

func newRelinking(a, b []snapshot.Change) *relinking {
	r := &relinking{a: a, b: b, heads: map[string]string{}, joined: map[string]bool{}}
	for i := range b {
		link := b[i].Entry.Link
		if b[i].Delete || link == "" || findChange(b, link) != nil {
			continue
		}
		if x := findChange(a, link); x != nil && !x.Delete && x.Entry.Link == "" {
			r.joined[link] = true
		}
	}
	return r
}

// first is a change of a, with the Link that it has after b.
func (r *relinking) first(ch snapshot.Change) snapshot.Change {
	e := &ch.Entry
	if r.joined[e.Path] {
		e.Link = e.Path
	}
	if ch.Delete || e.Link == "" || findChange(r.b, e.Link) == nil {
		return ch
	}
	if r.heads[e.Link] == "" {
		r.heads[e.Link] = e.Path
	}
	e.Link = r.heads[e.Link]
	return ch
}

// second is a change of b: its Link may mean the group of an entry of a.
func (r *relinking) second(ch snapshot.Change) snapshot.Change {
	e := &ch.Entry
	if ch.Delete || e.Link == "" || findChange(r.b, e.Link) != nil {
		return ch
	}
	if x := findChange(r.a, e.Link); x != nil && !x.Delete && x.Entry.Link != "" {
		e.Link = x.Entry.Link
	}
	return ch
}

// findChange returns the change of path in a sorted list, or nil.
func findChange(ch []snapshot.Change, path string) *snapshot.Change {
	i := sort.Search(len(ch), func(i int) bool { return comparePaths(ch[i].Entry.Path, path) >= 0 })
	if i < len(ch) && ch[i].Entry.Path == path {
		return &ch[i]
	}
	return nil
}

// compareChanges orders the first changes of two lists; an empty list is last.
func compareChanges(a, b []snapshot.Change) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	}
	return comparePaths(a[0].Entry.Path, b[0].Entry.Path)
}
