package tree

import (
	"github.com/roost-ci/roost/snapshot"
)

// decideAtomic takes p and all below it from one tree.
func (m *merger) decideAtomic(p string, f frame) error {
	from, err := m.chooseUnit(p, f)
	if err != nil {
		return err
	}
	m.takeWhole(p, from, taking, f.live)
	return nil
}

// takeWhole puts tree from's p into the result, and what is below it as how says.
func (m *merger) takeWhole(p string, from int, how how, live []int) {
	if m.cur[from] == nil {
		m.push(frame{path: p, how: dropping})
		return
	}
	m.emit(m.cur[from], from, live, true)
	m.push(frame{path: p, how: how, from: from, live: live})
}

// chooseUnit finds the tree from which an atomic subtree is taken.
func (m *merger) chooseUnit(p string, f frame) (int, error) {
	changed := m.differ(p, 0, f.live)
	if len(changed) == 0 {
		return 0, nil
	}
	if len(m.differ(p, changed[0], changed)) == 0 {
		return changed[0], nil
	}
	var strong []int
	for _, i := range changed {
		same, _, err := m.sameUnit(p, i, 0)
		if err != nil {
			return 0, err
		}
		if !same {
			strong = append(strong, i)
		}
	}
	all := strong
	if len(strong) == 0 {
		all = changed
	}
	for _, i := range all[1:] {
		same, times, err := m.sameUnit(p, all[0], i)
		if err != nil {
			return 0, err
		}
		if !same {
			from, _ := m.resolve(p, snapshot.ConflictAtomic, [2]int{all[0], i}, all)
			return from, nil
		}
		m.diverged += times
	}
	return all[0], nil
}

// differ are those of parents whose subtree at p differs from tree from's in
// anything, hard links included. No content is read.
func (m *merger) differ(p string, from int, parents []int) []int {
	like := m.subtree(from, p)
	var out []int
	for _, i := range parents {
		if i != from && (!quickSame(m.cur[i], m.cur[from]) || !quickSameList(m.subtree(i, p), like)) {
			out = append(out, i)
		}
	}
	return out
}

func quickSameList(a, b []snapshot.Entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Path != b[i].Path || a[i].Link != b[i].Link || !quickSame(&a[i], &b[i]) {
			return false
		}
	}
	return true
}

// sameUnit compares the subtrees of trees a and b at p, times aside, and counts
// the files whose times differ.
func (m *merger) sameUnit(p string, a, b int) (same bool, times int, err error) {
	x, y := m.subtree(a, p), m.subtree(b, p)
	if len(x) != len(y) {
		return false, 0, nil
	}
	if same, err = m.same(m.cur[a], m.cur[b]); err != nil || !same {
		return false, 0, err
	}
	for i := range x {
		if x[i].Path != y[i].Path {
			return false, 0, nil
		}
		if same, err = m.same(&x[i], &y[i]); err != nil || !same {
			return false, 0, err
		}
		if x[i].MTime != y[i].MTime && x[i].Type != snapshot.TypeDir {
			times++
		}
	}
	return true, times, nil
}
