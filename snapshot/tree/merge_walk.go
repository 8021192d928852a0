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
	// alike are parents that have the same as from if how is taking, but for times.
	alike []int
	// cache: no conflicts below.
	cache bool
	// kept is the entry of a directory that is deleted unless something below it
	// stays; nil when something does. keptAt is its place in the outcome, and keptNote
	// its note there if it stays.
	kept     *snapshot.Entry
	keptAt   int
	keptNote []byte
}

// how is how the entries below a directory are decided.
type how uint8

const (
	merging how = iota // each path by the rules
	taking             // all from one tree
	takeGit            // the same, but for what a .git never hands on
	dropping
)

// run sweeps over all paths of a batch, which are behind those of the last one.
func (m *merger) run(batch [][]snapshot.Entry) error {
	m.batch = batch
	copy(m.rest, batch)
	for m.next() {
		p := m.path()
		m.out, m.linked = nil, false
		for len(m.stack) > 1 && !below(p, m.stack[len(m.stack)-1].path) {
			m.stack = m.stack[:len(m.stack)-1]
		}
		f := &m.stack[len(m.stack)-1]
		var err error
		switch f.how {
		case dropping:
		case taking:
			if e := m.cur[f.from]; e != nil {
				m.countUnit(e, f.alike)
				m.emit(e, f.from, f.live, true)
			}
		case takeGit:
			err = m.takeGit(p, *f)
		case merging:
			err = m.decide(p, *f)
		}
		if err == nil {
			err = m.note(p)
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
		if f := &m.stack[i]; f.kept != nil {
			m.outcome.later[f.keptAt] = verdict{*f.kept, f.keptNote}
			m.entries++
			f.kept = nil
		}
	}
	m.entries++
	m.bytes += e.Size
	m.made = *e
	m.out = &m.made
	if e.Type == snapshot.TypeFile && m.anyLink(from, live) {
		m.made.Link = ""
		m.linked = true
		m.links.note(m, from, live, whole)
	}
}

// note notes what has become of the current path, if some parent has it otherwise.
func (m *merger) note(p string) error {
	m.room = m.noteOf(m.room, m.out)
	note := m.room
	top := &m.stack[len(m.stack)-1]
	provisional := top.kept != nil && top.path == p && m.out == nil
	if provisional {
		top.keptAt, top.keptNote = m.outcome.n, m.noteOf(nil, top.kept)
	}
	switch {
	case !provisional && !m.linked && !anyBit(note):
		return nil
	case m.out != nil:
		return m.outcome.add(m.out, note)
	}
	note[0] = 1
	return m.outcome.add(&snapshot.Entry{Path: p, Type: snapshot.TypeFifo}, note)
}

// noteOf says which parents have at the current path something else than out. The room
// of note is used.
func (m *merger) noteOf(note []byte, out *snapshot.Entry) []byte {
	if note == nil {
		note = m.outcome.newNote()
	}
	clear(note)
	for i, e := range m.cur[1:] {
		if (e == nil) != (out == nil) || e != nil && !e.Equal(out) {
			setBit(note, i)
		}
	}
	return note
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
