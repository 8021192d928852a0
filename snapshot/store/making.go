package store

import (
	"context"
	"errors"
	"io"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// eachMade calls fn for what the changes of x make of the tree of base ("": of nothing),
// in order, as tree.Apply would but for groups of hard links: what entries say of these
// is left as it is. Neither list is in memory. What fn is given is fn's only until it
// returns. Changes that don't fit together are an error; a list that Apply might take and
// this does not is errUnlike.
func (s *Store) eachMade(ctx context.Context, base snapshot.ID, x *indexFile, fn func(e *snapshot.Entry) error) error {
	return s.eachMadeOf(ctx, base, []*indexFile{x}, func(e *snapshot.Entry, _ bool) error { return fn(e) })
}

// eachMadeOf is eachMade of one index after the other. fn is told, too, whether an entry
// comes from the last one.
func (s *Store) eachMadeOf(ctx context.Context, base snapshot.ID, xs []*indexFile, fn func(e *snapshot.Entry, listed bool) error) error {
	m, done, err := s.beginMaking(ctx, base, xs)
	if err != nil {
		return err
	}
	defer done()
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var e snapshot.Entry
		if err := m.next(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := fn(&e, m.listed); err != nil {
			return err
		}
	}
}

// beginMaking begins an eachMadeOf, of which one entry is asked for after the other.
func (s *Store) beginMaking(ctx context.Context, base snapshot.ID, xs []*indexFile) (m *making, done func(), err error) {
	done = func() {}
	var below entries
	if base != "" {
		t, err := s.openBase(ctx, base)
		if err != nil {
			return nil, nil, err
		}
		below, done = t, t.close
	}
	for _, x := range xs {
		if m, err = newMaking(below, x); err != nil {
			done()
			return nil, nil, err
		}
		below = m
	}
	return m, done, nil
}

// entries are a list of entries, of which next is the next; io.EOF is behind the last.
type entries interface {
	next(e *snapshot.Entry) error
}

// making is what an index makes of a list.
type making struct {
	x    *indexFile
	base beside
	in   tree.InOrder

	ch     snapshot.Change
	ended  bool // there is no change any more
	listed bool // the last entry was a change
}

// newMaking begins with the first entry of base; nil is nothing.
func newMaking(base entries, x *indexFile) (*making, error) {
	m := &making{x: x, base: beside{t: base}}
	if base != nil {
		if err := m.base.step(); err != nil {
			return nil, err
		}
	}
	return m, m.change()
}

func (m *making) next(e *snapshot.Entry) error {
	for m.base.more || !m.ended {
		if put, err := m.step(e); err != nil {
			return err
		} else if put {
			return m.in.Next(e)
		}
	}
	return io.EOF
}

// step looks at one entry of the base or one change, and reports whether e is that now.
func (m *making) step(e *snapshot.Entry) (put bool, err error) {
	c := -1
	if !m.ended {
		c = 1
		if m.base.more {
			c = snapshot.ComparePaths(m.base.e.Path, m.ch.Entry.Path)
		}
	}
	if c < 0 {
		*e, m.listed = m.base.e, false
		return true, m.base.step()
	}
	if m.ch.Replace && (m.ch.Entry.Type != snapshot.TypeDir || m.ch.Entry.Path == "") {
		return false, errUnlike
	}
	if c == 0 {
		over := m.base.over
		if !m.ch.Delete && !m.ch.Replace && m.ch.Entry.Type == snapshot.TypeDir && m.base.e.Type == snapshot.TypeDir {
			over = m.base.step
		}
		if err := over(); err != nil {
			return false, err
		}
	}
	if put = !m.ch.Delete; put {
		*e, m.listed = m.ch.Entry, true
	}
	return put, m.change()
}

// change goes to the next change.
func (m *making) change() error {
	err := m.x.next(&m.ch)
	if errors.Is(err, io.EOF) {
		m.ended = true
		return nil
	}
	return err
}
