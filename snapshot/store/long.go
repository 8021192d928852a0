package store

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// A job can leave millions of entries. As a list these would take gigabytes, and the
// tree is wanted several times: for its image, and when it is packed. So a long tree is
// never in memory. What the job touched is kept in a compact list until it is packed; the
// rest is read from the manifest of the base, and both are gone through together as often
// as it takes.

// longEntries is from how many entries on a tree is long. As a list one of so many takes
// up to half a gigabyte while it is packed.
const longEntries = 200_000

// longTrees is what is known of them. Its zero value is ready.
type longTrees struct {
	// work is held while one is gone through: what that takes is not to be there twice.
	work sync.Mutex
	// counting is held while names are counted, before mu: it is done once.
	counting sync.Mutex

	mu      sync.Mutex // guards all below
	names   map[snapshot.ID]int
	touched map[snapshot.ID]view.Listed
	whole   snapshot.ID // of which touched has a whole tree: one is enough
}

// forget lets go of what is known of a layer that is packed, or can't be.
func (t *longTrees) forget(id snapshot.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.names, id)
	delete(t.touched, id)
}

// long returns the driver if the tree of l is not to be in memory, and need not be; else
// nil.
func (s *Store) long(ctx context.Context, l *layer) view.Lister {
	d, ok := s.driver.(view.Lister)
	if !ok || l.stored() {
		return nil
	}
	if _, ok := s.trees.get(l.info.ID); ok {
		return nil
	}
	if !s.isLong(ctx, d, l) {
		return nil
	}
	return d
}

// isLong reports whether the tree of l is long, if it can be told entry by entry.
func (s *Store) isLong(ctx context.Context, d view.Lister, l *layer) bool {
	n, ok := s.entriesOf(ctx, d, l)
	return ok && (s.fewer > 0 || n >= s.longFrom())
}

// longBelow reports whether the tree of a layer that is held is long, and nobody who
// compares another one with it needs that in memory.
func (s *Store) longBelow(ctx context.Context, id snapshot.ID) bool {
	d, ok := s.driver.(view.Lister)
	s.mu.Lock()
	l := s.layers[id]
	s.mu.Unlock()
	return ok && l != nil && s.isLong(ctx, d, l)
}

// longFrom is how many entries make a tree long.
func (s *Store) longFrom() int { return min(longEntries, s.o.CacheEntries+1) }

// entriesOf is about how many entries the tree of l has, or more. It reports false if the
// tree can't be told entry by entry.
func (s *Store) entriesOf(ctx context.Context, d view.Lister, l *layer) (int, bool) {
	s.mu.Lock()
	n, packed, base := int(l.info.Entries), !l.info.Index.IsZero(), s.layers[l.info.Base]
	s.mu.Unlock()
	if packed {
		return n, true
	}
	if n == 0 {
		n = s.namesOf(ctx, d, l)
		if base != nil {
			more, ok := s.entriesOf(ctx, d, base)
			switch {
			case !ok:
				return 0, false
			case d.ListsAll():
				n = max(n, more) // what it is compared with is not to be in memory either
			default:
				n += more
			}
		}
	}
	return n, base != nil || l.info.Base == ""
}

// namesOf counts the names that the job of l touched, as far as it matters, and those
// that the merge did which it was shown.
func (s *Store) namesOf(ctx context.Context, d view.Lister, l *layer) int {
	t := &s.longs
	t.counting.Lock()
	defer t.counting.Unlock()
	t.mu.Lock()
	n, ok := t.names[l.info.ID]
	t.mu.Unlock()
	if ok {
		return n
	}
	n = tree.Count(ctx, filepath.Join(s.dir, filepath.FromSlash(l.place().Dir)), s.longFrom())
	if l.fanin && !d.ListsAll() {
		merged, _ := s.eachOfFanin(l.info.ID, nil) // an error is found when it is gone through
		n += merged
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names == nil {
		t.names = map[snapshot.ID]int{}
	}
	t.names[l.info.ID] = n
	return n
}

// touchedBy lists what the job of l touched: once, but for layers that are whole trees.
func (s *Store) touchedBy(ctx context.Context, d view.Lister, l *layer) (view.Listed, error) {
	t := &s.longs
	t.mu.Lock()
	is := t.touched[l.info.ID]
	t.mu.Unlock()
	if is != nil {
		return is, nil
	}
	is, err := d.List(ctx, l.place(), &pack.List{})
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.touched == nil {
		t.touched = map[snapshot.ID]view.Listed{}
	}
	if d.ListsAll() {
		delete(t.touched, t.whole)
		t.whole = l.info.ID
	}
	t.touched[l.info.ID] = is
	return is, nil
}

// longTree is the tree of l with its sources, from its files.
func (s *Store) longTree(ctx context.Context, d view.Lister, l *layer) (view.Tree, totals, error) {
	s.mu.Lock()
	in := l.info
	s.mu.Unlock()
	if !in.Index.IsZero() {
		return s.readTree(ctx, l), totals{in.TreeBytes, in.Entries}, nil
	}
	t, sum, err := s.listedTree(ctx, d, l)
	if err != nil {
		return nil, totals{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.info.Index.IsZero() {
		l.info.TreeBytes, l.info.Entries, l.unsized = sum.Bytes, int64(sum.Entries), false
	}
	return t, totals{sum.Bytes, int64(sum.Entries)}, nil
}

// listedTree is the tree of l as its own directory and its base tell it.
func (s *Store) listedTree(ctx context.Context, d view.Lister, l *layer) (view.Tree, view.Sum, error) {
	s.mu.Lock()
	in, base := l.info, s.layers[l.info.Base]
	s.mu.Unlock()
	var below view.Tree
	if base != nil {
		var err error
		if below, err = s.treeBelow(ctx, base); err != nil {
			return nil, view.Sum{}, err
		}
		if l.fanin {
			below = tree.Over(below, s.relocated(ctx, s.readFanin(in.ID)))
		}
	}
	touched, err := s.touchedBy(ctx, d, l)
	if err != nil {
		return nil, view.Sum{}, err
	}
	return touched.Over(ctx, below)
}

// treeBelow is the tree that a job began with, be it long or not.
func (s *Store) treeBelow(ctx context.Context, base *layer) (view.Tree, error) {
	if d := s.long(ctx, base); d != nil {
		t, _, err := s.longTree(ctx, d, base)
		return t, err
	}
	m, err := s.Tree(ctx, base.info.ID)
	if err != nil {
		return nil, err
	}
	return view.TreeOf(m), nil
}

// readTree is the tree of a packed layer, read anew each time.
func (s *Store) readTree(ctx context.Context, l *layer) view.Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		t, err := s.openTree(ctx, l)
		if err != nil {
			return err
		}
		defer t.close()
		return t.each(ctx)(fn)
	}
}

// drawTries is how often an image is begun of a tree whose files are being moved.
const drawTries = 3

// imageLong is image of a long tree.
func (s *Store) imageLong(ctx context.Context, d view.Lister, l *layer) error {
	s.longs.work.Lock()
	defer s.longs.work.Unlock()
	for try := 1; ; try++ {
		s.mu.Lock()
		moves := s.gathering.moves
		s.mu.Unlock()
		err := s.drawLong(ctx, d, l)
		s.mu.Lock()
		same := moves == s.gathering.moves
		s.mu.Unlock()
		if err == nil || same || try == drawTries || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Store) drawLong(ctx context.Context, d view.Lister, l *layer) error {
	t, sum, err := s.longTree(ctx, d, l)
	if err != nil {
		return fmt.Errorf("tree of %s: %w", l.info.ID, err)
	}
	defer lean(int(sum.entries))()
	im, ok := s.driver.(view.TreeImager)
	if !ok {
		return nil
	}
	place, err := im.ImageTree(ctx, l.place(), s.placeBelow(l), t)
	if err != nil {
		return err
	}
	fail.Point("store.imaged")
	return s.setPlace(ctx, l, place, func() { fail.Point("store.image.row") })
}
