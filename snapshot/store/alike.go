package store

import (
	"bytes"
	"context"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// likeness is how much the content of a held layer may be that of what is imported.
// The first difference decides.
type likeness struct {
	kept   int64 // bytes that it has of layers of the chain
	parent bool  // a job made one of the chain from it
	far    int64 // the difference in the number of entries
	seq    int64
}

func (a likeness) before(b likeness) bool {
	switch {
	case a.parent != b.parent:
		return a.parent
	case a.kept != b.kept:
		return a.kept > b.kept
	case a.far != b.far:
		return a.far < b.far
	}
	return a.seq > b.seq
}

// alike returns the tree of a held snapshot that may have much of the content of what
// b is and its base, if it has one, has not; nil if there is none. What its files hold
// is copied and not fetched. It is a parent, one that was fetched as the last of a chain
// with layers of b's in it, or, for what stands on nothing, the newest of those nearest
// in their number of entries. Should it be removed meanwhile, the rest is fetched.
func (s *Store) alike(ctx context.Context, b *brought) *snapshot.Manifest {
	if b.spec.Base != "" && s.isLarge(b.spec.Base, len(b.ix.Changes)) {
		return nil // one such tree is in memory, and that is enough
	}
	l := s.mostAlike(b)
	if l == nil {
		return nil
	}
	t, err := s.Tree(ctx, l.info.ID)
	if err != nil {
		s.log.Debug("a snapshot like the one to import can't be used", "snapshot", l.info.ID, "error", err)
		return nil
	}
	return t
}

// openAlike is alike for who goes through it in order. Of what stands on something, that
// is what there is.
func (s *Store) openAlike(ctx context.Context, b *brought) *treeFile {
	var like *layer
	if b.spec.Base == "" {
		like = s.mostAlike(b)
	} else {
		s.mu.Lock()
		like = s.layers[b.spec.Base]
		s.mu.Unlock()
	}
	if like == nil {
		return nil
	}
	t, err := s.openTree(ctx, like)
	if err != nil {
		s.log.Debug("a snapshot like the one to import can't be used", "snapshot", like.info.ID, "error", err)
		return nil
	}
	return t
}

// mostAlike is the layer whose tree alike returns.
func (s *Store) mostAlike(b *brought) *layer {
	line := map[snapshot.ID]bool{}
	parents := slices.Clone(b.asked.Parents)
	for i := range b.below {
		line[b.below[i].ID] = true
		parents = append(parents, b.below[i].Parents...)
	}
	line[b.asked.ID] = true
	var best *layer
	var most likeness
	s.mu.Lock()
	for id, l := range s.layers {
		if _, err := s.usableLocked(id); err != nil || l.info.Index.IsZero() || !bytes.Equal(l.key, b.spec.DomainKey) {
			continue
		}
		far := l.info.Entries - b.entries()
		is := likeness{parent: slices.Contains(parents, id), far: max(far, -far), seq: l.seq}
		for i := range l.chain {
			if line[l.chain[i].ID] {
				is.kept += l.chain[i].Kept
			}
		}
		if b.spec.Base != "" && (id == b.spec.Base || !is.parent && is.kept == 0) {
			continue
		}
		if best == nil || is.before(most) {
			best, most = l, is
		}
	}
	s.mu.Unlock()
	return best
}

// firstOf asks a, then b, which may be nil.
func firstOf(a, b func(string) *snapshot.Entry) func(string) *snapshot.Entry {
	return func(path string) *snapshot.Entry {
		if e := a(path); e != nil || b == nil {
			return e
		}
		return b(path)
	}
}

// lookedThrough is how many entries of a base are looked at for each chunk that may be
// somewhere in it: reading one costs less than a microsecond, a chunk a part of a request.
const lookedThrough = 64

// lookThrough calls fn with all entries of a base of which n chunks are wanted, unless that
// costs more than it can be worth. That it can't be read is no error: what it has is
// fetched.
func (s *Store) lookThrough(ctx context.Context, base snapshot.ID, n int, fn func(e *snapshot.Entry) error) error {
	t, err := s.openBase(ctx, base)
	if err == nil {
		defer t.close()
		if t.left()/lookedThrough > n {
			return nil
		}
		err = t.each(ctx)(fn)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Debug("what a base has can't be looked through", "snapshot", base, "error", err)
		return nil
	}
	return err
}
