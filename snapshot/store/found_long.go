package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// openFound is openLocated of a large layer whose list of sources can't be read: that is
// made again from the layer's own directory, without any tree in memory. Of a layer of
// which only its tree can tell it is an error.
func (s *Store) openFound(ctx context.Context, l *layer) (*treeFile, error) {
	d, ok := s.driver.(view.Lister)
	if !ok || l.imported || l.stored() || l.place().Gathered {
		return nil, errors.New("only its tree tells where its files are")
	}
	if err := s.findLongSources(ctx, d, l); err != nil {
		return nil, err
	}
	return s.openLocated(ctx, l, true)
}

// findLongSources is findSources of a long tree, and writes the list.
func (s *Store) findLongSources(ctx context.Context, d view.Lister, l *layer) error {
	defer s.longs.forget(l.info.ID)
	t, sum, err := s.listedTree(ctx, d, l)
	if err != nil {
		return err
	}
	defer lean(sum.Entries)()
	s.mu.Lock()
	id, digest := l.info.ID, l.info.Manifest
	s.mu.Unlock()
	b, err := s.encodeSourcesOf(digest, s.asIn(ctx, l, digest, t))
	if err == nil {
		err = writeSummed(s.srcPath(id), b)
	}
	if err != nil {
		return fmt.Errorf("sources of %s: %w", id, err)
	}
	return nil
}

// asIn is the tree of a manifest with the sources that found has of it, at the places where
// the files are by now.
func (s *Store) asIn(ctx context.Context, l *layer, d snapshot.Digest, found view.Tree) view.Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		m, err := s.beginManifest(d)
		if err != nil {
			return err
		}
		defer m.close()
		r := s.newRelocator(ctx, l.info.ID)
		if r != nil {
			defer r.close()
		}
		unlike := func(path string) error {
			return &snapshot.CorruptError{
				What: "layer", Name: string(l.info.ID), Why: fmt.Sprintf("%q is not where its manifest has it", path),
			}
		}
		var e snapshot.Entry
		err = found(func(is *snapshot.Entry) error {
			if err := m.next(&e); errors.Is(err, io.EOF) {
				return unlike(is.Path)
			} else if err != nil {
				return err
			}
			if e.Path != is.Path {
				return unlike(is.Path)
			}
			e.Source, e.SourceAt = is.Source, is.SourceAt
			if r != nil {
				r.relocate(&e)
			}
			return fn(&e)
		})
		if err != nil {
			return err
		}
		if err := m.next(&e); err == nil {
			return unlike(e.Path)
		} else if !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	}
}
