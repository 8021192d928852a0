package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// treeOf is the tree of a manifest as a driver goes through it: each time the file is
// read once more.
func (s *Store) treeOf(ctx context.Context, d snapshot.Digest) view.Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		t, err := s.beginManifest(d)
		if err != nil {
			return err
		}
		defer t.close()
		return t.each(ctx)(fn)
	}
}

// materialiseInParts is materialise by a driver that needs no tree in memory.
func (s *Store) materialiseInParts(ctx context.Context, d view.Streamer, l *layer, meter *view.Meter) error {
	defer lean(int(l.info.Entries))()
	fill := func(ctx context.Context, write view.PiecesFunc) error {
		w, err := s.newWriting(ctx, l.info.ID)
		if err != nil {
			return err
		}
		defer w.close()
		return w.handOut(ctx, write)
	}
	place, located, err := d.UnpackTree(ctx, view.TreeSpec{
		ID: l.info.ID, N: int(l.info.Entries), New: s.treeOf(ctx, l.info.Manifest), Fill: fill, Meter: meter,
	})
	if err != nil {
		return err
	}
	fail.Point("store.materialise.unpacked")
	if err := s.settleInParts(ctx, l, place, located); err != nil {
		return errors.Join(err, s.driver.Remove(context.WithoutCancel(ctx), place))
	}
	return nil
}

// settleInParts makes place, where the driver has unpacked the tree, the place of l.
func (s *Store) settleInParts(ctx context.Context, l *layer, place *view.Layer, t view.Tree) error {
	if im, ok := s.driver.(view.TreeImager); ok {
		var err error
		if place, err = im.ImageTree(ctx, place, nil, t); err != nil {
			return fmt.Errorf("image: %w", err)
		}
	}
	own, err := s.writeSourcesOf(l.info.ID, l.info.Manifest, place, t)
	if err != nil {
		return err
	}
	return s.commitSettled(ctx, l, place, l.info.StoredBytes+own, nil)
}

// handOut hands out the content of all parts.
func (w *writing) handOut(ctx context.Context, write view.PiecesFunc) error {
	begin := 0
	return w.parts(ctx, func(ctx context.Context) error {
		o := w.options(ctx)
		o.Pieces = func(pieces ...snapshot.Piece) error {
			for i := range pieces {
				pieces[i].Change += begin
			}
			return write(pieces...)
		}
		err := pack.Extract(ctx, w.ix, o, nil)
		begin += len(w.ix.Changes)
		return err
	})
}

// writeSourcesOf is writeSources of a tree that is not in memory. own are the bytes that
// the layer at place brought.
func (s *Store) writeSourcesOf(id snapshot.ID, d snapshot.Digest, place *view.Layer, t view.Tree) (own int64, err error) {
	dir := filepath.Join(s.dir, filepath.FromSlash(place.Dir)) + "/"
	b, err := s.encodeSourcesOf(d, func(fn func(e *snapshot.Entry) error) error {
		return t(func(e *snapshot.Entry) error {
			if e.FirstLink() && strings.HasPrefix(e.Source, dir) {
				own += e.Size
			}
			return fn(e)
		})
	})
	if err == nil {
		err = writeSummed(s.srcPath(id), b)
	}
	if err != nil {
		return 0, fmt.Errorf("sources of %s: %w", id, err)
	}
	return own, nil
}
