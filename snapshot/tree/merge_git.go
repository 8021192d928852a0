package tree

import (
	"slices"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// isRepository reports whether p, a .git, is a repository's directory in one of
// the trees: it has a HEAD.
func (m *merger) isRepository(p string, live []int) bool {
	for i := range m.cur {
		if (i == 0 || slices.Contains(live, i)) && isDir(m.cur[i]) {
			if _, ok := m.find(i, p+"/HEAD"); ok {
				return true
			}
		}
	}
	return false
}

// decideGit takes a .git whole: an index, refs and packs of several repositories
// do not make one. If only one parent touched it, it is that one's; if several
// did (git status is enough), the first one's, provided that the same commit is
// checked out in all of them.
func (m *merger) decideGit(p string, f frame) error {
	changed := inBatch{m, p}.differ(0, f.live)
	from := 0
	if len(changed) > 0 {
		from = changed[0]
	}
	if len(changed) > 1 {
		for _, i := range changed[1:] {
			if !m.sameHead(p, changed[0], i) {
				from, _ = m.resolve(p, snapshot.ConflictGit, [2]int{changed[0], i}, changed)
				break
			}
		}
	}
	var with []int
	for _, i := range f.live {
		if isDir(m.cur[i]) {
			with = append(with, i)
		}
	}
	m.takeWhole(p, from, frame{how: takeGit, live: with})
	return nil
}

// takeGit is one path in a .git that is taken from tree f.from.
func (m *merger) takeGit(p string, f frame) error {
	e := m.cur[f.from]
	switch {
	case e != nil && e.Type != snapshot.TypeDir && strings.HasSuffix(p, ".lock"):
		return nil // whoever held it is gone
	case !m.isPrivate(p, f.path), isDir(e):
		if e != nil {
			m.emit(e, f.from, f.live, true)
		}
		return nil
	}
	// config and hooks are code that git runs: what one parent wrote there does not
	// reach the others' children. All alike is nobody's doing; else it is as it was.
	from := f.from
	for _, i := range f.live {
		same, err := m.same(m.cur[f.live[0]], m.cur[i])
		if err != nil {
			return err
		}
		if !same {
			from = 0
		}
	}
	if m.cur[from] != nil {
		m.emit(m.cur[from], from, f.live, true)
	}
	return nil
}

// isPrivate reports whether p is the config or lies in the hooks of the
// repository git, or of a submodule's beneath it. A branch may be called config:
// only what stands beside a HEAD counts there.
func (m *merger) isPrivate(p, git string) bool {
	rel := p[len(git)+1:]
	switch first, _, _ := strings.Cut(rel, "/"); first {
	case "config", "config.worktree", "hooks":
		return true
	case "modules", "worktrees":
	default:
		return false
	}
	for d := p; len(d) > len(git); d = parentOf(d) {
		switch nameOf(d) {
		case "config", "config.worktree", "hooks":
			if m.anyHas(parentOf(d) + "/HEAD") {
				return true
			}
		}
	}
	return false
}

func (m *merger) anyHas(path string) bool {
	for i := range m.cur {
		if _, ok := m.find(i, path); ok {
			return true
		}
	}
	return false
}

// find returns the entry of a tree at path, which lies in the current batch if there is
// one.
func (m *merger) find(tree int, path string) (*snapshot.Entry, bool) {
	es := m.batch[tree]
	at, ok := find(es, path)
	if !ok {
		return nil, false
	}
	return &es[at], true
}

// sameHead reports whether trees a and b have the same commit checked out in the
// repository p. What can't be told is not the same.
func (m *merger) sameHead(p string, a, b int) bool {
	if m.cur[a] == nil && m.cur[b] == nil {
		return true // both deleted it
	}
	if !isDir(m.cur[a]) || !isDir(m.cur[b]) {
		return false
	}
	x, ok := m.head(a, p)
	if !ok {
		return false
	}
	y, ok := m.head(b, p)
	return ok && x == y
}
