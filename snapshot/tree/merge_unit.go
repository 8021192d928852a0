package tree

import (
	"github.com/roost-ci/roost/snapshot"
)

// decideAtomic takes p and all below it from one tree.
func (m *merger) decideAtomic(p string, f frame) error {
	from, alike, err := m.chooseUnit(p, f)
	if err != nil {
		return err
	}
	m.takeWhole(p, from, frame{how: taking, live: f.live, alike: alike})
	return nil
}

// takeWhole puts tree from's p into the result, and what is below it as f says.
func (m *merger) takeWhole(p string, from int, f frame) {
	if m.cur[from] == nil {
		m.push(frame{path: p, how: dropping})
		return
	}
	m.emit(m.cur[from], from, f.live, true)
	f.path, f.from = p, from
	m.push(f)
}

// chooseUnit finds the tree from which an atomic subtree is taken, and other parents that
// made the same of it, but for times.
func (m *merger) chooseUnit(p string, f frame) (from int, alike []int, err error) {
	var c comparing = inBatch{m, p}
	if w := m.heavy[p]; w != nil {
		c = w
	}
	changed := c.differ(0, f.live)
	if len(changed) == 0 {
		return 0, nil, nil
	}
	if len(c.differ(changed[0], changed)) == 0 {
		return changed[0], nil, nil
	}
	var strong []int
	for _, i := range changed {
		same, err := c.same(i, 0)
		if err != nil {
			return 0, nil, err
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
		same, err := c.same(all[0], i)
		if err != nil {
			return 0, nil, err
		}
		if !same {
			from, _ := m.resolve(p, snapshot.ConflictAtomic, [2]int{all[0], i}, all)
			return from, nil, nil
		}
	}
	return all[0], all[1:], nil
}

// countUnit counts a file of a subtree that parents made alike but for times.
func (m *merger) countUnit(e *snapshot.Entry, alike []int) {
	for _, i := range alike {
		if x := m.cur[i]; x != nil && x.MTime != e.MTime && e.Type != snapshot.TypeDir {
			m.diverged++
		}
	}
}

// inBatch compares the subtrees at p, the current path, which lie in the current batch.
type inBatch struct {
	m *merger
	p string
}

func (b inBatch) differ(from int, parents []int) []int {
	m := b.m
	like := m.subtree(from, b.p)
	var out []int
	for _, i := range parents {
		if i != from && (!quickSame(m.cur[i], m.cur[from]) || !quickSameList(m.subtree(i, b.p), like)) {
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

func (b inBatch) same(i, k int) (bool, error) {
	m := b.m
	x, y := m.subtree(i, b.p), m.subtree(k, b.p)
	if len(x) != len(y) {
		return false, nil
	}
	if same, err := m.same(m.cur[i], m.cur[k]); err != nil || !same {
		return false, err
	}
	for at := range x {
		if x[at].Path != y[at].Path {
			return false, nil
		}
		if same, err := m.same(&x[at], &y[at]); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}
