package store

import (
	"bufio"
	"context"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// foldInParts is fold, and writes the index.
func (s *Store) foldInParts(ctx context.Context, b *brought, newest []*pack.Index) error {
	st, err := pack.NewStream(s.encoder(b.spec.DomainKey, b.where.Find, nil), 0)
	if err != nil {
		return err
	}
	defer st.Close()
	most := s.part(partEntries)
	part := make([]snapshot.Change, 0, most)
	flush := func() error {
		err := st.Add(ctx, part)
		clear(part)
		part = part[:0]
		return err
	}
	err = s.eachDiffering(ctx, b, func(ch *snapshot.Change) error {
		part = append(part, *ch)
		if len(part) < most {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	ix, _, err := st.Finish(ctx)
	if err != nil {
		return err
	}
	own := ownPacks(newest...)
	for i := range ix.Packs {
		ix.Packs[i].Own = own[ix.Packs[i].Digest]
	}
	ix.Base, ix.Manifest = newest[len(newest)-1].Base, b.spec.Manifest
	b.ix, b.kept = ix, keptOf(ix, newest) // before chunks are let go of
	b.file, b.spec.Index, b.spec.IndexBytes, err = s.draftIndex(func(w *bufio.Writer) (snapshot.Digest, error) {
		return st.WriteIndex(w, ix)
	})
	return err
}

// ownPacks has the packs that one of the indexes says are its own.
func ownPacks(ixs ...*pack.Index) map[snapshot.Digest]bool {
	own := map[snapshot.Digest]bool{}
	for _, ix := range ixs {
		for _, p := range ix.Packs {
			own[p.Digest] = own[p.Digest] || p.Own
		}
	}
	return own
}

// eachDiffering calls fn with what tree.Diff says of the base and the tree of b.
func (s *Store) eachDiffering(ctx context.Context, b *brought, fn func(ch *snapshot.Change) error) error {
	touched := map[string]bool{}
	if b.spec.Base != "" {
		err := s.eachBeside(ctx, b, func(ch *snapshot.Change, same bool) error {
			if !same && ch.Entry.Link != "" {
				touched[ch.Entry.Link] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.eachBeside(ctx, b, func(ch *snapshot.Change, same bool) error {
		if same && !touched[ch.Entry.Link] {
			return nil
		}
		return fn(ch)
	})
}

// eachBeside calls fn with each entry of the tree of b, and whether it is as in the
// base, and with the deletion of what only the base has.
func (s *Store) eachBeside(ctx context.Context, b *brought, fn func(ch *snapshot.Change, same bool) error) error {
	var base beside
	if b.spec.Base != "" {
		t, err := s.openBase(ctx, b.spec.Base)
		if err != nil {
			return err
		}
		defer t.close()
		base.t = t
		if err := base.step(); err != nil {
			return err
		}
	}
	gone := func(c *compared) error { return fn(&c.ch, false) }
	err := s.treeOf(ctx, b.spec.Manifest)(func(e *snapshot.Entry) error {
		if err := base.before(e.Path, gone); err != nil {
			return err
		}
		same := false
		if base.more && base.e.Path == e.Path {
			same = base.e.Equal(e)
			if err := base.pass(e.Type); err != nil {
				return err
			}
		}
		return fn(&snapshot.Change{Entry: *e}, same)
	})
	if err != nil {
		return err
	}
	return base.rest(gone)
}

// openBase begins to read the tree of a layer that is held.
func (s *Store) openBase(ctx context.Context, id snapshot.ID) (*treeFile, error) {
	s.mu.Lock()
	l, err := s.usableLocked(id)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return s.openTree(ctx, l)
}

// eachListed calls fn with each entry of the tree of b, which has a Source if it is the
// base's, and says whether the index lists it: then it is unpacked.
func (s *Store) eachListed(ctx context.Context, b *brought, fn func(e *snapshot.Entry, listed bool) error) error {
	if b.spec.Base == "" {
		return s.treeOf(ctx, b.spec.Manifest)(func(e *snapshot.Entry) error { return fn(e, true) })
	}
	x, err := s.openIndex(b.spec.Index)
	if err != nil {
		return err
	}
	defer x.Close() //nolint:errcheck // only read
	return s.eachMadeOf(ctx, b.spec.Base, []*indexFile{x}, fn)
}

// checkListed checks that the index lists groups of hard links as a whole, as Relink
// would have it do.
func (s *Store) checkListed(ctx context.Context, b *brought) error {
	if b.spec.Base == "" {
		return nil
	}
	touched := map[string]bool{}
	err := s.eachListed(ctx, b, func(e *snapshot.Entry, listed bool) error {
		if listed && e.Link != "" {
			touched[e.Link] = true
		}
		return nil
	})
	if err != nil || len(touched) == 0 {
		return err
	}
	return s.eachListed(ctx, b, func(e *snapshot.Entry, listed bool) error {
		if !listed && touched[e.Link] {
			return errUnlike
		}
		return nil
	})
}
