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
	members map[treeLink][]linkMember
	keys    []treeLink // in order of appearance, so that the result is always the same
}

// treeLink is one group in one tree.
type treeLink struct {
	tree int
	link string
}

// linkMember is one file of the result that is in a group of a tree.
type linkMember struct {
	at    int // in the result
	owner bool
}

// note is told of the file that m has just put into the result, as emit is.
func (l *mergedLinks) note(m *merger, from int, live []int, whole bool) {
	if !m.anyLink(from, live) {
		return
	}
	at := len(m.out) - 1
	e := &m.out[at]
	e.Link = ""
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

// settle writes the Links of out.
func (l *mergedLinks) settle(out []snapshot.Entry) {
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
		if at != first && sameInode(&out[first], &out[at]) {
			out[first].Link = out[first].Path
			out[at].Link = out[first].Path
		}
	}
}
