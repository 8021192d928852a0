package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// treeOf is the tree of a manifest as a driver goes through it: each time the file is
// read once more.
func (s *Store) treeOf(ctx context.Context, d snapshot.Digest) view.Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		t, err := s.openManifest(d)
		if err != nil {
			return err
		}
		defer t.close()
		var in tree.InOrder
		for n := 0; ; n++ {
			if n%1024 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var e snapshot.Entry
			if err := t.next(&e); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := in.Next(&e); err != nil {
				return err
			}
			if err := fn(&e); err != nil {
				return err
			}
		}
	}
}

// materialiseInParts is materialise by a driver that needs no tree in memory.
func (s *Store) materialiseInParts(ctx context.Context, d view.Streamer, l *layer, meter *view.Meter) error {
	defer lean(int(l.info.Entries))()
	fill := func(ctx context.Context, write view.WriteFunc) error {
		w, err := s.newWriting(ctx, l.info.ID)
		if err != nil {
			return err
		}
		defer w.t.close()
		w.progress = &Progress{}
		begin := 0
		return w.parts(ctx, func(ctx context.Context) error {
			err := w.extract(ctx, func(i int, off int64, p []byte) error { return write(begin+i, off, p) }, nil)
			begin += len(w.ix.Changes)
			return err
		})
	}
	place, located, err := d.UnpackTree(ctx, l.info.ID, int(l.info.Entries), s.treeOf(ctx, l.info.Manifest), fill, meter)
	if err != nil {
		return err
	}
	fail.Point("store.materialise.unpacked")
	if err := s.settleInParts(ctx, d, l, place, located); err != nil {
		return errors.Join(err, s.driver.Remove(context.WithoutCancel(ctx), place))
	}
	return nil
}

// settleInParts makes place, where the driver has unpacked the tree, the place of l.
func (s *Store) settleInParts(ctx context.Context, d view.Streamer, l *layer, place *view.Layer, t view.Tree) error {
	place, err := d.ImageTree(ctx, place, nil, t)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	own := int64(0)
	b, err := s.encodeSourcesOf(l.info.Manifest, func(fn func(e *snapshot.Entry) error) error {
		return t(func(e *snapshot.Entry) error {
			if e.Source != "" && e.FirstLink() {
				own += e.Size
			}
			return fn(e)
		})
	})
	if err == nil {
		err = writeSummed(s.srcPath(l.info.ID), b)
	}
	if err != nil {
		return fmt.Errorf("sources of %s: %w", l.info.ID, err)
	}
	return s.commitSettled(ctx, l, place, l.info.StoredBytes+own, nil)
}
