package tree

import (
	"fmt"
	"slices"
	"sort"

	"github.com/roost-ci/roost/snapshot"
)

// linker puts the groups of hard links right after changes were applied to a
// tree. The difficulty is that the Link of an entry of the base is a path in the
// base, and that of a change is a path in the new tree; the same path may have
// become another file in between. So the two are kept apart, and meet only where
// a change names a path whose entry is still the base's.
type linker struct {
	out     []snapshot.Entry
	changed []bool // of out[i]: it came from a change
	linked  []int  // places in out of entries that have a Link
}

// note is told of each entry as it takes its place at the end of out.
func (l *linker) note(out []snapshot.Entry, changed bool) {
	l.out = out
	l.changed = append(l.changed, changed)
	if out[len(out)-1].Link != "" {
		l.linked = append(l.linked, len(out)-1)
	}
}

// linkKey names a group: a path, and whether it is one in the base.
type linkKey struct {
	path string
	base bool
}

// settle writes the Links.
func (l *linker) settle() error {
	groups := map[linkKey][]int{}
	for _, at := range l.linked {
		k := linkKey{l.out[at].Link, true}
		if l.changed[at] {
			k = l.resolve(l.out[at].Link, groups)
		}
		groups[k] = append(groups[k], at)
	}
	for _, members := range groups {
		slices.Sort(members)
		if err := setLink(l.out, members); err != nil {
			return err
		}
	}
	return nil
}

// resolve finds the group that a change means by link.
func (l *linker) resolve(link string, groups map[linkKey][]int) linkKey {
	at, ok := find(l.out, link)
	if !ok || l.changed[at] || l.out[at].Type != snapshot.TypeFile {
		return linkKey{link, false}
	}
	if first := l.out[at].Link; first != "" {
		return linkKey{first, true}
	}
	// A file that had one name gets another, and is not listed itself.
	k := linkKey{link, true}
	if len(groups[k]) == 0 {
		groups[k] = []int{at}
	}
	return k
}

// setLink makes one group of the entries at members, sorted places in out.
func setLink(out []snapshot.Entry, members []int) error {
	first := &out[members[0]]
	if len(members) == 1 {
		first.Link = ""
		return nil
	}
	for _, at := range members {
		if !sameInode(first, &out[at]) {
			return fmt.Errorf("hard links %q and %q: the entries differ", first.Path, out[at].Path)
		}
		out[at].Link = first.Path
	}
	return nil
}

// sameInode reports whether a and b can be names of one file. Contents that are
// not both hashed are taken to be the same: whoever said that they are linked
// knows it.
func sameInode(a, b *snapshot.Entry) bool {
	return a.Type == snapshot.TypeFile && b.Type == snapshot.TypeFile && a.MTime == b.MTime &&
		a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Size == b.Size &&
		snapshot.EqualXattrs(a.Xattrs, b.Xattrs) &&
		(!a.Hashed() || !b.Hashed() || slices.Equal(a.Chunks, b.Chunks))
}

// find returns the place of path in a sorted list.
func find(es []snapshot.Entry, path string) (int, bool) {
	i := sort.Search(len(es), func(i int) bool { return comparePaths(es[i].Path, path) >= 0 })
	return i, i < len(es) && es[i].Path == path
}
