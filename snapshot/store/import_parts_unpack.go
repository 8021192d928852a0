package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// importInParts is importLayer of what bringInParts brought.
func (s *Store) importInParts(ctx context.Context, b *brought, open OpenBlobFunc, m *view.Meter) error {
	defer lean(int(b.parts.sum.entries))()
	l := s.importedLayer(b)
	l.standFor(b)
	l.info.TreeBytes, l.info.Entries = b.parts.sum.bytes, b.parts.sum.entries
	var place *view.Layer
	err := s.twice(ctx, b.spec.ID, func() (err error) {
		place, err = s.unpackInParts(ctx, b, open, m)
		return err
	})
	return s.endImport(ctx, l, place, err, func() error { return s.keepInParts(ctx, l, b, place) })
}

// unpackInParts fetches content and has the driver store and show it.
func (s *Store) unpackInParts(ctx context.Context, b *brought, open OpenBlobFunc, m *view.Meter) (*view.Layer, error) {
	fresh := func(fn func(e *snapshot.Entry) error) error {
		return s.eachListed(ctx, b, func(e *snapshot.Entry, listed bool) error {
			if !listed {
				return nil
			}
			return fn(e)
		})
	}
	spec := view.TreeSpec{
		ID: b.spec.ID, Base: b.basePlace, N: int(b.parts.sum.entries), New: fresh, Meter: m, Later: b.spec.Later,
		Fill: func(ctx context.Context, write view.PiecesFunc) error {
			return s.fillInParts(ctx, b, open, fresh, write)
		},
		Whole: func(located view.Tree) view.Tree {
			b.whole = s.wholeOf(ctx, b, located)
			return b.whole
		},
	}
	if b.spec.Base != "" {
		spec.N = 0
	}
	place, _, err := s.driver.(view.Streamer).UnpackTree(ctx, spec) //nolint:forcetypeassert // bringInParts has looked
	return place, err
}

// wholeOf is the tree of b, with the sources that located says of what is listed.
func (s *Store) wholeOf(ctx context.Context, b *brought, located view.Tree) view.Tree {
	if b.spec.Base == "" {
		return located
	}
	return func(fn func(e *snapshot.Entry) error) error {
		x, err := s.openIndex(b.spec.Index)
		if err != nil {
			return err
		}
		defer x.Close() //nolint:errcheck // only read
		all, done, err := s.beginMaking(ctx, b.spec.Base, []*indexFile{x})
		if err != nil {
			return err
		}
		defer done()
		// until calls fn up to the next one that is listed, or to the end.
		until := func(e *snapshot.Entry) error {
			for {
				if err := all.next(e); err != nil || all.listed {
					return err
				}
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		err = located(func(e *snapshot.Entry) error {
			var is snapshot.Entry
			if err := until(&is); err != nil {
				return err
			}
			is.Source, is.SourceAt = e.Source, e.SourceAt
			return fn(&is)
		})
		if err != nil {
			return err
		}
		var e snapshot.Entry
		if err := until(&e); !errors.Is(err, io.EOF) {
			return errors.Join(err, errUnlike)
		}
		return nil
	}
}

// fillInParts hands out the content of fresh.
func (s *Store) fillInParts(ctx context.Context, b *brought, open OpenBlobFunc, fresh view.Tree, write view.PiecesFunc) error {
	w := &writing{
		s: s, key: b.spec.DomainKey, find: b.where.Find, own: ownPacks(b.ix), open: open,
		all: fresh, base: b.spec.Base,
	}
	if like := s.openAlike(ctx, b); like != nil {
		defer like.close()
		w.like = &beside{t: like}
		if err := w.like.step(); err != nil {
			return err
		}
	}
	return w.handOut(ctx, write)
}

// keepInParts is keepImported.
func (s *Store) keepInParts(ctx context.Context, l *layer, b *brought, place *view.Layer) (err error) {
	in := &l.info
	l.at.Store(place)
	if in.PlainBytes, err = s.writeSourcesOf(in.ID, in.Manifest, place, b.whole); err != nil {
		return err
	}
	fail.Point("store.import.written")
	return s.commitImported(ctx, l, nil)
}

// twice does it again if it fails because of what an earlier attempt has left.
func (s *Store) twice(ctx context.Context, id snapshot.ID, unpack func() error) error {
	err := unpack()
	if !errors.Is(err, os.ErrExist) || !s.abandoned(id) {
		return err
	}
	if err := s.driver.Discard(ctx, &view.View{ID: id, Layer: view.Layer{ID: id}}); err != nil {
		return fmt.Errorf("undo an earlier attempt: %w", err)
	}
	return unpack()
}
