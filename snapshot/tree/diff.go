package tree

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// Diff lists what turns base (nil: nothing) into t. Both are valid manifests. It
// lists every entry that is not Equal, so also a name whose group of hard links
// got another first name, and it never says Replace.
//
// A group of hard links in t of which it lists any name is listed whole. Who
// writes a layer from the list alone can't link a new name to a file that lies in
// the layers below: all names of the file have to be made anew, beside each other.
func Diff(base, t *snapshot.Manifest) []snapshot.Change { return diff(base, t, func() {}) }

// DiffAside is Diff that stands aside while the gate of ctx is held.
func DiffAside(ctx context.Context, base, t *snapshot.Manifest) []snapshot.Change {
	return diff(base, t, quiet.Pace(ctx))
}

// asideEvery is how many entries are gone through between two steps aside: a tenth of a
// millisecond's worth.
const asideEvery = 512

func diff(base, t *snapshot.Manifest, aside func()) []snapshot.Change {
	b, n := entries(base), entries(t)
	// Room for what is there more often than in the base: all, if that is nothing.
	out := slices.Grow([]snapshot.Change(nil), max(0, len(n)-len(b)))
	var linked []int // places in t of hard links that are Equal in both
	for done := 0; len(b) > 0 || len(n) > 0; done++ {
		if done%asideEvery == 0 {
			aside()
		}
		switch c := compareHeads(b, n); {
		case c < 0: // only in base
			out = append(out, snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: b[0].Path}})
			b = after(b)
		case c > 0: // only in t
			out = append(out, snapshot.Change{Entry: n[0]})
			n = n[1:]
		default:
			if !b[0].Equal(&n[0]) {
				out = append(out, snapshot.Change{Entry: n[0]})
			} else if n[0].Link != "" {
				linked = append(linked, len(t.Entries)-len(n))
			}
			if b[0].Type == snapshot.TypeDir && n[0].Type != snapshot.TypeDir {
				b = after(b)
			} else {
				b = b[1:]
			}
			n = n[1:]
		}
	}
	return wholeGroups(out, t, linked)
}

// wholeGroups adds to a list of changes those of t's entries at linked, which did
// not change, whose file has another name among the changes.
func wholeGroups(changes []snapshot.Change, t *snapshot.Manifest, linked []int) []snapshot.Change {
	if len(linked) == 0 {
		return changes
	}
	touched := map[string]bool{}
	for i := range changes {
		if link := changes[i].Entry.Link; link != "" {
			touched[link] = true
		}
	}
	n := len(changes)
	for _, at := range linked {
		if e := &t.Entries[at]; touched[e.Link] {
			changes = append(changes, snapshot.Change{Entry: *e})
		}
	}
	if len(changes) > n {
		slices.SortFunc(changes, func(a, b snapshot.Change) int { return comparePaths(a.Entry.Path, b.Entry.Path) })
	}
	return changes
}

// Apply returns base (nil: nothing) with changes made to it. Both are left as
// they are; the result shares their chunks and attributes. Changes must satisfy
// ValidateChanges, and what they add must stand in a directory; the deletion of
// what is not there is allowed.
//
// Groups of hard links are put right afterwards: a change's Link that names an
// entry of base which is not itself changed joins that entry's group, and an
// entry of base that is not changed leaves the group of a first name that is.
func Apply(base *snapshot.Manifest, changes []snapshot.Change) (*snapshot.Manifest, error) {
	return apply(base, changes, func() {})
}

// ApplyAside is Apply that stands aside while the gate of ctx is held.
func ApplyAside(ctx context.Context, base *snapshot.Manifest, changes []snapshot.Change) (*snapshot.Manifest, error) {
	return apply(base, changes, quiet.Pace(ctx))
}

func apply(base *snapshot.Manifest, changes []snapshot.Change, aside func()) (*snapshot.Manifest, error) {
	if err := ValidateChanges(changes); err != nil {
		return nil, err
	}
	b := entries(base)
	if len(changes) == 0 && len(b) > 0 {
		return &snapshot.Manifest{Entries: slices.Clone(b)}, nil
	}
	var a applying
	a.out = make([]snapshot.Entry, 0, len(b)+len(changes))
	a.links.changed = make([]bool, 0, cap(a.out))
	for done := 0; len(b) > 0 || len(changes) > 0; done++ {
		if done%asideEvery == 0 {
			aside()
		}
		c := -1
		if len(changes) > 0 {
			c = 1
			if len(b) > 0 {
				c = comparePaths(b[0].Path, changes[0].Entry.Path)
			}
		}
		if c < 0 {
			if err := a.put(&b[0], false); err != nil {
				return nil, err
			}
			b = b[1:]
			continue
		}
		ch := &changes[0]
		changes = changes[1:]
		if c == 0 {
			keep := !ch.Delete && !ch.Replace && ch.Entry.Type == snapshot.TypeDir && b[0].Type == snapshot.TypeDir
			if keep {
				b = b[1:]
			} else {
				b = after(b)
			}
		}
		if ch.Delete {
			continue
		}
		if err := a.put(&ch.Entry, true); err != nil {
			return nil, err
		}
	}
	if len(a.out) == 0 {
		return nil, fmt.Errorf("changes to nothing: the root is missing")
	}
	if err := a.links.settle(); err != nil {
		return nil, err
	}
	return &snapshot.Manifest{Entries: a.out}, nil
}

// applying is an Apply under way.
type applying struct {
	out   []snapshot.Entry
	dirs  dirStack
	links linker
}

// put appends an entry, in order, and sees that its parent is a directory.
func (a *applying) put(e *snapshot.Entry, changed bool) error {
	if err := a.dirs.enter(e); err != nil {
		return err
	}
	a.out = append(a.out, *e)
	a.links.note(a.out, changed)
	return nil
}

// dirStack follows a list of entries in order and holds the directories that the
// last one stands in.
type dirStack []string

// enter checks that e is the root, first, or stands in a directory seen before.
func (s *dirStack) enter(e *snapshot.Entry) error {
	if len(*s) == 0 {
		if e.Path != "" || e.Type != snapshot.TypeDir {
			return fmt.Errorf("entry %q: the root directory must be there, and first", e.Path)
		}
		*s = append(*s, "")
		return nil
	}
	parent := parentOf(e.Path)
	for len(*s) > 0 && (*s)[len(*s)-1] != parent {
		*s = (*s)[:len(*s)-1]
	}
	if len(*s) == 0 {
		return fmt.Errorf("entry %q: %q is not a directory", e.Path, parent)
	}
	if e.Type == snapshot.TypeDir {
		*s = append(*s, e.Path)
	}
	return nil
}

func entries(m *snapshot.Manifest) []snapshot.Entry {
	if m == nil {
		return nil
	}
	return m.Entries
}

// comparePaths is snapshot.ComparePaths with a short cut for the usual case: two
// manifests of one line share the strings of what did not change.
func comparePaths(a, b string) int {
	if a == b {
		return 0
	}
	return snapshot.ComparePaths(a, b)
}

// compareHeads orders the first entries of two lists; an empty list is last.
func compareHeads(a, b []snapshot.Entry) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	}
	return comparePaths(a[0].Path, b[0].Path)
}

// after skips the first entry and all below it.
func after(es []snapshot.Entry) []snapshot.Entry {
	p := es[0].Path
	if p == "" {
		return nil
	}
	n := 1
	for n < len(es) && below(es[n].Path, p) {
		n++
	}
	return es[n:]
}

// below reports whether path lies strictly below dir.
func below(path, dir string) bool {
	if dir == "" {
		return path != ""
	}
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// parentOf is the path of the directory that path stands in; the root is its own.
func parentOf(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

// nameOf is the last component of path.
func nameOf(path string) string {
	return path[strings.LastIndexByte(path, '/')+1:]
}
