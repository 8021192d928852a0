package tree

import (
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// resolve lets the policy choose among parties, which disagree about p. Where it
// does not, the conflict is noted, decided is false, and one of the parties that
// has p is returned so that the sweep can go on and find the other conflicts.
func (m *merger) resolve(p string, kind snapshot.ConflictKind, pair [2]int, parties []int) (winner int, decided bool) {
	for _, r := range m.prefer {
		if r.glob.covers(p) {
			return r.parent, true
		}
	}
	if m.o.Order {
		return parties[0], true
	}
	m.conflicts = append(m.conflicts, snapshot.Conflict{
		Path: p, Kind: kind, Jobs: [2]string{m.jobs[pair[0]], m.jobs[pair[1]]},
	})
	return m.firstThatHas(parties), false
}

// kind names how parents a and b disagree about the current path.
func (m *merger) kind(a, b int) snapshot.ConflictKind {
	x, y := m.cur[a], m.cur[b]
	switch {
	case x == nil || y == nil:
		return snapshot.ConflictDelete
	case x.Type != y.Type:
		return snapshot.ConflictType
	}
	return snapshot.ConflictModify
}

// addedInDeleted settles a new name in a directory that others deleted. It
// reports whether the name is dropped.
func (m *merger) addedInDeleted(p string, f frame, adders []int) bool {
	parties := append(slices.Clone(adders), f.gone...)
	slices.Sort(parties)
	pair := [2]int{adders[0], f.gone[0]}
	slices.Sort(pair[:])
	winner, decided := m.resolve(p, snapshot.ConflictAddDeleted, pair, parties)
	return !decided || m.cur[winner] == nil
}
