package tree

import (
	"github.com/roost-ci/roost/snapshot"
)

// frame is one directory that the current path lies in, and how what is in it is
// decided.
type frame struct {
	path string
	how  how
	// live are the parents that take part below path, in order. The others were
	// overruled: they made path something else than a directory. Where all is taken
	// from one tree, they are those that others' hard links may come from.
	live []int
	// gone are those of live that deleted path, which base has.
	gone []int
	// from is the tree that everything comes from if how is take or takeGit.
	from int
	// cache: no conflicts below.
	cache bool
	// kept is the entry of a directory that is deleted unless something below it
	// stays; nil when it is in the output already.
	kept *snapshot.Entry
}

// how is how the entries below a directory are decided.
type how uint8

const (
	merging how = iota // each path by the rules
	taking             // all from one tree
	takeGit            // the same, but for what a .git never hands on
	dropping
)

// run sweeps over all paths.
func (m *merger) run() error {
	live := make([]int, len(m.trees)-1)
	for i := range live {
		live[i] = i + 1
	}
	m.stack = []frame{{how: merging, live: live}}
	for m.next() {
		p := m.path()
		for len(m.stack) > 1 && !below(p, m.stack[len(m.stack)-1].path) {
			m.stack = m.stack[:len(m.stack)-1]
		}
		f := &m.stack[len(m.stack)-1]
		var err error
		switch f.how {
		case dropping:
		case taking:
			if m.cur[f.from] != nil {
				m.emit(m.cur[f.from], f.from, f.live, true)
			}
		case takeGit:
			err = m.takeGit(p, *f)
		case merging:
			err = m.decide(p, *f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next moves every tree that has the next path onto it.
func (m *merger) next() bool {
	first := -1
	for i, es := range m.rest {
		m.cur[i] = nil
		if len(es) == 0 {
			continue
		}
		c := -1
		if first >= 0 {
			c = comparePaths(es[0].Path, m.rest[first][0].Path)
		}
		if c < 0 {
			for j := range i {
				m.cur[j] = nil
			}
			first = i
		}
		if c <= 0 {
			m.cur[i] = &es[0]
		}
	}
	if first < 0 {
		return false
	}
	for i, e := range m.cur {
		if e != nil {
			m.rest[i] = m.rest[i][1:]
		}
	}
	return true
}

// path is the current path.
func (m *merger) path() string {
	for _, e := range m.cur {
		if e != nil {
			return e.Path
		}
	}
	return ""
}

// subtree is what is still to come of tree i below p, the current path.
func (m *merger) subtree(i int, p string) []snapshot.Entry {
	n := 0
	for n < len(m.rest[i]) && below(m.rest[i][n].Path, p) {
		n++
	}
	return m.rest[i][:n]
}

// emit puts e, tree from's entry, into the result. live are the parents whose hard
// links to it have a say; with whole, from alone says which it is in.
func (m *merger) emit(e *snapshot.Entry, from int, live []int, whole bool) {
	for i := range m.stack {
		if d := m.stack[i].kept; d != nil {
			m.out = append(m.out, *d)
			m.stack[i].kept = nil
		}
	}
	m.out = append(m.out, *e)
	if e.Type == snapshot.TypeFile {
		m.links.note(m, from, live, whole)
	}
}

// push enters the directory p. Nothing is pushed where no tree has anything below.
func (m *merger) push(f frame) {
	for _, e := range m.cur {
		if isDir(e) {
			m.stack = append(m.stack, f)
			return
		}
	}
}

func isDir(e *snapshot.Entry) bool { return e != nil && e.Type == snapshot.TypeDir }
