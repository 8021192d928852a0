package tree

// An atomic directory can hold most of a tree, as a build directory does, and whoever built
// anew changed all of it. Which tree it is taken from depends on all that is in it. So where
// that is much, it is found out before, by a reading of its own, how the trees compare
// there; then it is merged a batch at a time, as anything else is.

// comparing tells how the trees compare at one atomic directory.
type comparing interface {
	// differ are those of parents that differ from tree from in anything there, hard links
	// included. No content is read.
	differ(from int, parents []int) []int
	// same reports whether trees a and b are the same there, times and hard links aside.
	same(a, b int) (bool, error)
}

// weighed is an atomic directory in which much differs.
type weighed struct {
	entries int     // that differ, those of all trees
	quick   classes // in anything
	real    classes // times and hard links aside; nil where nobody will ask
}

func (w *weighed) differ(from int, parents []int) (out []int) {
	for _, i := range parents {
		if w.quick[i] != w.quick[from] {
			out = append(out, i)
		}
	}
	return out
}

func (w *weighed) same(a, b int) (bool, error) { return w.real[a] == w.real[b], nil }

// disputed reports whether parents changed it in more than one way.
func (w *weighed) disputed() bool {
	first := 0
	for _, c := range w.quick {
		switch {
		case c == 0 || c == first:
		case first != 0:
			return true
		default:
			first = c
		}
	}
	return false
}

// weigh looks for atomic directories in which too much differs to have it in one batch, and
// how the trees compare there.
func (m *merger) weigh(trees []Tree, atomic func(dir string) bool) error {
	m.heavy = map[string]*weighed{}
	if len(m.atomic) == 0 && len(m.marks.atomic) == 0 {
		return nil
	}
	var in *weighed
	var dir string
	leave := func() {
		if in != nil && in.entries <= m.keep {
			delete(m.heavy, dir)
		}
		in = nil
	}
	s := m.aside(trees)
	defer s.stop()
	err := s.run(func(p string) error {
		if in != nil && !below(p, dir) {
			leave()
		}
		if in == nil && s.dir() && atomic(p) {
			in, dir = &weighed{quick: make(classes, len(trees))}, p
			m.heavy[p] = in
		}
		if in == nil || s.same() {
			return nil
		}
		for _, e := range s.cur {
			if e != nil {
				in.entries++
			}
		}
		return in.quick.split(func(a, b int) (bool, error) {
			x, y := s.cur[a], s.cur[b]
			return quickSame(x, y) && (x == nil || x.Link == y.Link), nil
		})
	}, 0, nil)
	leave()
	if err != nil {
		return err
	}
	return m.weighReal(trees)
}

// weighReal compares the trees by content where it may matter.
func (m *merger) weighReal(trees []Tree) error {
	any := false
	for _, w := range m.heavy {
		if w.disputed() {
			w.real, any = make(classes, len(trees)), true
		}
	}
	if !any {
		return nil
	}
	var in *weighed
	var dir string
	s := m.aside(trees)
	defer s.stop()
	return s.run(func(p string) error {
		if in != nil && !below(p, dir) {
			in = nil
		}
		if w := m.heavy[p]; w != nil && w.real != nil {
			in, dir = w, p
		}
		if in == nil || s.same() {
			return nil
		}
		return in.real.split(func(a, b int) (bool, error) { return m.same(s.cur[a], s.cur[b]) })
	}, 0, nil)
}

// aside reads trees in step and lets nothing through.
func (m *merger) aside(trees []Tree) *sieve {
	s := newSieve(trees)
	s.all, s.shut = m.all, true
	return s
}

// classes says of each tree which is the first one that it is like. At first all are like
// tree 0.
type classes []int

// split takes apart those that same tells apart, which is asked of a tree and the first one
// that it was like; those that leave it together stay together if they are the same.
func (c classes) split(same func(a, b int) (bool, error)) error {
	var left [][2]int // a tree that became the first of its like, and the one that it left
	for i, first := range c {
		if first == i {
			continue
		}
		if ok, err := same(i, first); ok || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		c[i] = i
		for _, l := range left {
			if l[1] != first {
				continue
			}
			ok, err := same(i, l[0])
			if err != nil {
				return err
			}
			if ok {
				c[i] = l[0]
				break
			}
		}
		if c[i] == i {
			left = append(left, [2]int{i, first})
		}
	}
	return nil
}
