package store

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// stacked reports whether a layer's own directory holds just what its job touched.
func stacked(l *view.Layer) bool { return len(l.Lowers) > 0 }

// check looks at what the job touched, with the driver's unmount beside it. Nobody
// is writing any more; if somebody is, the seal is refused. It finds what can't be
// part of a snapshot, and adds up sizes: DiskBytes, and what the tree has at most. Of
// a view that stood on nothing that is TreeBytes; else only the tree tells, which is
// made behind the seal: to look up what each name stands on would take the next job's
// time.
func (s *Store) check(ctx context.Context, l *layer) error {
	own, err := tree.Look(ctx, filepath.Join(s.dir, filepath.FromSlash(l.place().Dir)))
	if err != nil {
		return err
	}
	l.info.DiskBytes = own
	s.mu.Lock()
	defer s.mu.Unlock()
	began := int64(0) // what the view showed at first, or at most; -1: not known
	v := s.views[l.info.ID]
	switch {
	case v != nil && v.fanin != nil:
		began = v.fanin.bytes
	case l.info.Base != "":
		began = s.layers[l.info.Base].mostLocked()
	default:
		l.info.TreeBytes, l.unsized = own, false
	}
	if began >= 0 {
		l.atMost = began + own
	}
	return nil
}

// checkTree does the same where the layer is a whole tree: only a comparison with
// its base tells what the job did.
func (s *Store) checkTree(ctx context.Context, l *layer, sealed error) error {
	if sealed != nil {
		return nil
	}
	if d := s.long(ctx, l); d != nil && d.ListsAll() {
		return s.checkLong(ctx, d, l)
	}
	b, m := s.startTree(ctx, l)
	if m == nil {
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if b.err != nil {
			return b.err
		}
		m = b.m
	}
	l.info.DiskBytes = m.Bytes()
	return nil
}

// checkLong is checkTree of a long one, whose base matters for where its content is alone.
func (s *Store) checkLong(ctx context.Context, d view.Lister, l *layer) error {
	list, err := s.touchedBy(ctx, d, l)
	if err != nil {
		return fmt.Errorf("tree of %s: %w", l.info.ID, err)
	}
	_, sum, err := list.Over(ctx, nil)
	if err != nil {
		return fmt.Errorf("tree of %s: %w", l.info.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.info.TreeBytes, l.info.Entries, l.unsized = sum.Bytes, int64(sum.Entries), false
	l.info.DiskBytes = sum.Bytes
	return nil
}
