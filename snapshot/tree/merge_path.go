package tree

import (
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// decide is one path by the rules, and what becomes of what is below it.
func (m *merger) decide(p string, f frame) error {
	changed := m.changed(f.live)
	if m.cur[0] == nil && len(f.gone) > 0 && len(changed) > 0 && !f.cache {
		if dropped := m.addedInDeleted(p, f, changed); dropped {
			m.push(frame{path: p, how: dropping})
			return nil
		}
	}
	if m.anyDir(f.live) {
		switch {
		case f.cache:
		case nameOf(p) == ".git" && m.isRepository(p, f.live):
			return m.decideGit(p, f)
		case anyMatch(m.atomic, p):
			return m.decideAtomic(p, f)
		case anyMatch(m.caches, p) || m.marks.caches[p]:
			f.cache = true
		case m.marks.atomic[p]:
			return m.decideAtomic(p, f)
		}
	} else if !f.cache && len(changed) > 1 {
		f.cache = anyMatch(m.caches, p)
	}
	from, decided, err := m.choose(p, f, changed)
	if err != nil {
		return err
	}
	if !decided && m.mixed(f.live) {
		m.push(frame{path: p, how: dropping}) // said once, not again of all that is below
		return nil
	}
	m.place(p, f, from, changed)
	return nil
}

// place puts tree from's version of p into the result.
func (m *merger) place(p string, f frame, from int, changed []int) {
	e, base := m.cur[from], m.cur[0]
	switch {
	case e != nil && e.Type != snapshot.TypeDir:
		m.emit(e, from, f.live, false)
		m.push(frame{path: p, how: dropping})
		return
	case e == nil && !isDir(base):
		m.push(frame{path: p, how: dropping})
		return
	}
	sub := frame{path: p, how: merging, live: f.live, cache: f.cache}
	if slices.ContainsFunc(f.live, func(i int) bool { return !m.inside(i) }) {
		sub.live = nil
		for _, i := range f.live {
			if m.inside(i) {
				sub.live = append(sub.live, i)
			}
		}
	}
	if isDir(base) {
		for _, i := range f.live {
			if m.cur[i] == nil {
				sub.gone = append(sub.gone, i)
			}
		}
	}
	if e != nil {
		d := *e
		d.MTime = m.dirTime(e, changed)
		m.emit(&d, from, nil, false)
	} else {
		kept := *m.fallback(f.live)
		sub.kept = &kept
	}
	m.push(sub)
}

// inside reports whether parent i has a say below the current path, a directory:
// it has one there too, or deleted the one that base has.
func (m *merger) inside(i int) bool {
	return isDir(m.cur[i]) || m.cur[i] == nil && isDir(m.cur[0])
}

// dirTime is the time of a directory that the result has: the first parent's that
// changed it.
func (m *merger) dirTime(e *snapshot.Entry, changed []int) int64 {
	if !isDir(m.cur[0]) {
		return e.MTime
	}
	for _, i := range changed {
		if isDir(m.cur[i]) && m.cur[i].MTime != m.cur[0].MTime {
			return m.cur[i].MTime
		}
	}
	return m.cur[0].MTime
}

// fallback is the entry that a deleted directory gets if something in it stays.
func (m *merger) fallback(live []int) *snapshot.Entry {
	for _, i := range live {
		if isDir(m.cur[i]) {
			return m.cur[i]
		}
	}
	return m.cur[0]
}

// choose finds the tree whose version of p the result has. decided is false after
// a conflict that the policy leaves open.
func (m *merger) choose(p string, f frame, changed []int) (from int, decided bool, err error) {
	if len(changed) == 0 {
		return 0, true, nil
	}
	if m.agree(changed) && !m.leavesDirectory(f.live) {
		return changed[0], true, nil
	}
	strong, err := m.strong(p, f.live, changed)
	if err != nil {
		return 0, false, err
	}
	if len(strong) == 0 {
		m.countTimes(f, changed)
		return changed[0], true, nil
	}
	for _, i := range strong[1:] {
		same, err := m.same(m.cur[strong[0]], m.cur[i])
		if err != nil {
			return 0, false, err
		}
		if !same {
			if f.cache {
				return m.firstThatHas(strong), true, nil
			}
			from, decided = m.resolve(p, m.kind(strong[0], i), [2]int{strong[0], i}, strong)
			return from, decided, nil
		}
	}
	m.countTimes(f, strong)
	return strong[0], true, nil
}

// mixed reports whether some parents have a directory here and some have
// something else.
func (m *merger) mixed(live []int) bool {
	dir, other := false, false
	for _, i := range live {
		dir = dir || isDir(m.cur[i])
		other = other || m.cur[i] != nil && !isDir(m.cur[i])
	}
	return dir && other
}

// changed are the parents that differ from base at the current path, if only by
// the time. No content is read.
func (m *merger) changed(live []int) []int {
	var out []int
	for _, i := range live {
		if !quickSame(m.cur[i], m.cur[0]) {
			out = append(out, i)
		}
	}
	return out
}

// agree reports whether parents have the very same entry here.
func (m *merger) agree(parents []int) bool {
	for _, i := range parents[1:] {
		if !quickSame(m.cur[parents[0]], m.cur[i]) {
			return false
		}
	}
	return true
}

// strong are those of live that made a real change of p: another type, mode,
// owner, target, attribute or content, or none at all. Where a parent made a
// directory something else, the others' changes in it count too: they can't both
// be had.
func (m *merger) strong(p string, live, changed []int) ([]int, error) {
	asked := changed
	torn := m.leavesDirectory(live)
	if torn {
		asked = live
	}
	var out []int
	for _, i := range asked {
		same, err := m.same(m.cur[i], m.cur[0])
		if err != nil {
			return nil, err
		}
		if same && torn && isDir(m.cur[i]) {
			dirty, err := m.addsBelow(i, p)
			if err != nil {
				return nil, err
			}
			same = !dirty
		}
		if !same {
			out = append(out, i)
		}
	}
	return out, nil
}

// leavesDirectory reports whether base has a directory here and some parent
// something else.
func (m *merger) leavesDirectory(live []int) bool {
	return isDir(m.cur[0]) && slices.ContainsFunc(live, func(i int) bool {
		return m.cur[i] != nil && m.cur[i].Type != snapshot.TypeDir
	})
}

// addsBelow reports whether parent i added or changed anything below p. What it
// only deleted does not count.
func (m *merger) addsBelow(i int, p string) (bool, error) {
	b, t := m.subtree(0, p), m.subtree(i, p)
	for len(t) > 0 {
		switch c := compareHeads(b, t); {
		case c < 0:
			b = b[1:]
		case c > 0:
			return true, nil
		default:
			same, err := m.same(&t[0], &b[0])
			if err != nil || !same {
				return true, err
			}
			b, t = b[1:], t[1:]
		}
	}
	return false, nil
}

// countTimes counts a file that parents made alike but for its time.
func (m *merger) countTimes(f frame, parents []int) {
	if f.cache {
		return
	}
	for _, i := range parents[1:] {
		a, b := m.cur[parents[0]], m.cur[i]
		if a != nil && b != nil && a.Type != snapshot.TypeDir && a.MTime != b.MTime {
			m.diverged++
			return
		}
	}
}

func (m *merger) anyDir(live []int) bool {
	return isDir(m.cur[0]) || slices.ContainsFunc(live, func(i int) bool { return isDir(m.cur[i]) })
}

func (m *merger) firstThatHas(parents []int) int {
	for _, i := range parents {
		if m.cur[i] != nil {
			return i
		}
	}
	return parents[0]
}

// quickSame reports whether a and b are known to say the same, times included,
// hard links aside.
func quickSame(a, b *snapshot.Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.MTime == b.MTime && a.SameButTime(b)
}

// same reports whether a and b are the same but for their time and hard links. It
// asks for the content only where nothing else decides.
func (m *merger) same(a, b *snapshot.Entry) (bool, error) {
	if a == nil || b == nil {
		return a == b, nil
	}
	if a.SameButTime(b) {
		return true, nil
	}
	if a.Type != snapshot.TypeFile || b.Type != snapshot.TypeFile || a.Size != b.Size ||
		a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || !snapshot.EqualXattrs(a.Xattrs, b.Xattrs) ||
		a.KnownToDiffer(b) || m.o.Same == nil {
		return false, nil
	}
	return m.o.Same(a, b)
}
