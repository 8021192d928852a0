package tree

import (
	"github.com/roost-ci/roost/snapshot"
)

// mergedLinks finds the groups of hard links of a merged tree. A Link is a path
// in the tree that it comes from, so groups of different trees have to be matched
// by their members. Each file of the result is owned by one tree, the one that
// last said something of its links; it is one file with every other member of its
// owner's group whose entry in the result is the owner's too.
type mergedLinks struct {
	files   []linkedFile // that may be linked, in order
	members map[treeLink][]linkMember
	keys    []treeLink // in order of appearance, so that the result is always the same
}

// linkedFile is a file of the result that is in a group of some tree.
type linkedFile struct {
	entry snapshot.Entry
	at    int // in the outcome
	// was is its Link in each parent's tree, if it is the same there but for that; else
	// otherFile.
	was []string
}

// otherFile is no path.
const otherFile = "/"

// treeLink is one group in one tree.
type treeLink struct {
	tree int
	link string
}

// linkMember is one file of the result that is in a group of a tree.
type linkMember struct {
	at    int // in files
	owner bool
}

// note is told of a file that m puts into the result, as emit is, and that anyLink
// reports.
func (l *mergedLinks) note(m *merger, from int, live []int, whole bool) {
	at, e := len(l.files), m.out
	l.files = append(l.files, linkedFile{*e, m.outcome.n, m.linksOf(e)})
	owner := from
	if !whole && m.cur[0] != nil && quickSame(m.cur[from], m.cur[0]) {
		// Nobody changed the file. Did somebody link or unlink it?
		owner = 0
		for i := len(live) - 1; i >= 0; i-- {
			if x := m.cur[live[i]]; x != nil && x.Link != m.cur[0].Link && quickSame(x, e) {
				owner = live[i]
			}
		}
	}
	l.join(owner, m.cur[owner].Link, at, true)
	for _, i := range live {
		if x := m.cur[i]; i != owner && x != nil && x.Link != "" && quickSame(x, e) {
			l.join(i, x.Link, at, false)
		}
	}
}

func (m *merger) linksOf(out *snapshot.Entry) []string {
	was := make([]string, len(m.cur)-1)
	for i, e := range m.cur[1:] {
		was[i] = otherFile
		if e != nil && quickSame(e, out) {
			was[i] = e.Link
		}
	}
	return was
}

// anyLink reports whether the current path is in a group of any of the trees.
func (m *merger) anyLink(from int, live []int) bool {
	if m.cur[from].Link != "" || m.cur[0] != nil && m.cur[0].Link != "" {
		return true
	}
	for _, i := range live {
		if m.cur[i] != nil && m.cur[i].Link != "" {
			return true
		}
	}
	return false
}

func (l *mergedLinks) join(tree int, link string, at int, owner bool) {
	if link == "" {
		return
	}
	if l.members == nil {
		l.members = map[treeLink][]linkMember{}
	}
	k := treeLink{tree, link}
	if l.members[k] == nil {
		l.keys = append(l.keys, k)
	}
	l.members[k] = append(l.members[k], linkMember{at, owner})
}

// settle finds out the Links.
func (l *mergedLinks) settle() {
	// A union-find: up[at] is another member of at's group, nearer to its first.
	up := map[int]int{}
	top := func(at int) int {
		for {
			next, ok := up[at]
			if !ok || next == at {
				return at
			}
			at = next
		}
	}
	for _, k := range l.keys {
		ms := l.members[k]
		owned := false
		for _, x := range ms {
			owned = owned || x.owner
		}
		if !owned {
			continue
		}
		for _, x := range ms {
			a, b := top(ms[0].at), top(x.at)
			up[a], up[b] = min(a, b), min(a, b)
		}
	}
	for at := range up {
		first := top(at)
		if a, b := &l.files[first].entry, &l.files[at].entry; at != first && sameInode(a, b) {
			a.Link, b.Link = a.Path, a.Path
		}
	}
}

// verdicts says what the files are in the end. A group of which a parent has any name
// otherwise is a change of that as a whole.
func (l *mergedLinks) verdicts(o *outcome) {
	groups := map[string][]byte{}
	notes := make([][]byte, len(l.files))
	for i := range l.files {
		f := &l.files[i]
		note := groups[f.entry.Link]
		if note == nil || f.entry.Link == "" {
			note = o.newNote()
		}
		if f.entry.Link != "" {
			groups[f.entry.Link] = note
		}
		for parent, was := range f.was {
			if was != f.entry.Link {
				setBit(note, parent)
			}
		}
		notes[i] = note
	}
	for i := range l.files {
		o.later[l.files[i].at] = verdict{l.files[i].entry, notes[i]}
	}
}

// again is how many bytes are those of files that were counted by another name.
func (l *mergedLinks) again() (n int64) {
	for i := range l.files {
		if e := &l.files[i].entry; !e.FirstLink() {
			n += e.Size
		}
	}
	return n
}
