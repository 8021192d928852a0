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
	m := making{x: x, fn: fn}
	if base != "" {
		s.mu.Lock()
		l, err := s.usableLocked(base)
		s.mu.Unlock()
		if err != nil {
			return err
		}
		t, err := s.openTree(ctx, l)
		if err != nil {
			return err
		}
		defer t.close()
		m.base.t = t
		if err := m.base.step(); err != nil {
			return err
		}
	}
	if err := m.change(); err != nil {
		return err
	}
	for n := 0; m.base.more || !m.ended; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := m.step(); err != nil {
			return err
		}
	}
	return nil
}

// making is an eachMade under way.
type making struct {
	x    *indexFile
	base beside
	in   tree.InOrder
	fn   func(e *snapshot.Entry) error

	ch    snapshot.Change
	ended bool // there is no change any more
}

// step looks at one entry of the base or one change.
func (m *making) step() error {
	c := -1
	if !m.ended {
		c = 1
		if m.base.more {
			c = snapshot.ComparePaths(m.base.e.Path, m.ch.Entry.Path)
		}
	}
	if c < 0 {
		if err := m.put(&m.base.e); err != nil {
			return err
		}
		return m.base.step()
	}
	if m.ch.Replace && (m.ch.Entry.Type != snapshot.TypeDir || m.ch.Entry.Path == "") {
		return errUnlike
	}
	if c == 0 {
		over := m.base.over
		if !m.ch.Delete && !m.ch.Replace && m.ch.Entry.Type == snapshot.TypeDir && m.base.e.Type == snapshot.TypeDir {
			over = m.base.step
		}
		if err := over(); err != nil {
			return err
		}
	}
	if !m.ch.Delete {
		if err := m.put(&m.ch.Entry); err != nil {
			return err
		}
	}
	return m.change()
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

func (m *making) put(e *snapshot.Entry) error {
	if err := m.in.Next(e); err != nil {
		return err
	}
	return m.fn(e)
}
