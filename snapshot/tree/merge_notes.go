package tree

import (
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Notes is a long list of entries, in the order of a manifest, each with a few bytes about
// it.
type Notes interface {
	Append(e *snapshot.Entry, note []byte) error
	// Each calls fn for each entry, from the front. Both are fn's only until it returns;
	// what the entry points to may be kept.
	Each(fn func(e *snapshot.Entry, note []byte) error) error
}

// noteList is Notes for few entries.
type noteList struct {
	entries []snapshot.Entry
	notes   [][]byte
}

func (l *noteList) Append(e *snapshot.Entry, note []byte) error {
	l.entries, l.notes = append(l.entries, *e), append(l.notes, slices.Clone(note))
	return nil
}

func (l *noteList) Each(fn func(e *snapshot.Entry, note []byte) error) error {
	for i := range l.entries {
		e := l.entries[i]
		if err := fn(&e, l.notes[i]); err != nil {
			return err
		}
	}
	return nil
}

// outcome is what differs between a merged tree and those that it was merged of. It is
// noted path by path; only what is not known before the end is kept aside. A note is a
// byte that says whether the path is gone, and a bit for each parent that has it
// otherwise.
type outcome struct {
	notes   Notes
	n       int // of notes
	parents int
	later   map[int]verdict // by place in notes: what holds instead
}

// verdict is one entry of an outcome.
type verdict struct {
	entry snapshot.Entry
	note  []byte
}

// newNote is that of an entry that all have.
func (o *outcome) newNote() []byte { return make([]byte, 1+(o.parents+7)/8) }

func setBit(note []byte, parent int)      { note[1+parent/8] |= 1 << (parent % 8) }
func hasBit(note []byte, parent int) bool { return note[1+parent/8]&(1<<(parent%8)) != 0 }

// anyBit reports whether some parent has the entry otherwise.
func anyBit(note []byte) bool {
	return slices.ContainsFunc(note[1:], func(b byte) bool { return b != 0 })
}

func (o *outcome) add(e *snapshot.Entry, note []byte) error {
	o.n++
	return o.notes.Append(e, note)
}

// each calls fn for each entry as it is in the end.
func (o *outcome) each(fn func(e *snapshot.Entry, note []byte) error) error {
	at := 0
	return o.notes.Each(func(e *snapshot.Entry, note []byte) error {
		if v, ok := o.later[at]; ok {
			*e, note = v.entry, v.note
		}
		at++
		return fn(e, note)
	})
}

// listing tells which of the entries are changes of one parent's tree: what is below
// something that is gone, or no directory any more, is not told.
type listing struct {
	parent int
	leaf   topmost
}

func (l *listing) has(e *snapshot.Entry, note []byte) bool {
	if !hasBit(note, l.parent) || l.leaf.covers(e.Path) {
		return false
	}
	if note[0] != 0 || e.Type != snapshot.TypeDir {
		l.leaf.add(e.Path)
	}
	return true
}

// Changes lists what turns the tree of the i-th parent into the merged one, as Diff would.
func (m *Merged) Changes(i int) Changes {
	return func(fn func(c *snapshot.Change) error) error {
		l := listing{parent: i}
		return m.out.each(func(e *snapshot.Entry, note []byte) error {
			if !l.has(e, note) {
				return nil
			}
			c := snapshot.Change{Delete: note[0] != 0, Entry: *e}
			if c.Delete {
				c.Entry = snapshot.Entry{Path: e.Path}
			}
			return fn(&c)
		})
	}
}

// count counts the changes of each parent's tree.
func (m *Merged) count() error {
	lists := make([]listing, m.out.parents)
	m.Changed = make([]int, len(lists))
	for i := range lists {
		lists[i].parent = i
	}
	return m.out.each(func(e *snapshot.Entry, note []byte) error {
		for i := range lists {
			if lists[i].has(e, note) {
				m.Changed[i]++
			}
		}
		return nil
	})
}
