package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
	"weak"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// What a job left is reached in its upper directory, file by file, as long as views
// may stand on that. Once such a layer is packed its small files are gathered in a
// bundle, as those of a layer from elsewhere are, for the views that come: what it
// costs more than in a plain directory to open them gets half as much
// (BenchmarkManySmallFiles). Then images of layers that lead to the old files are made
// again, and when nothing shows them any more they are deleted.
//
// Trees and lists of sources may name the old places for ever: relocate puts the new
// ones into whatever tree is handed out.

const (
	// gatherLeast small files, and one in gatherShare of the tree's entries, make a
	// bundle worth while: to gather costs 20 µs for each file and 1.5 µs for each entry
	// of the image that is made again, and wins 1 µs each time that a later view reads a
	// file (BenchmarkManySmallFiles). So it pays when each is read some hundred times.
	gatherLeast = 64
	gatherShare = 64
	// gatherEvery is how often it is looked whether files may be deleted now, besides
	// when something happens; gatherPause how long is waited after that.
	gatherEvery = 30 * time.Second
	gatherPause = 100 * time.Millisecond
	// gatherRetry is when what did not work, as on a full disk, is tried again.
	gatherRetry = 10 * time.Minute
)

// gathering is the state of all that. Store.mu guards all but least and every, which are
// set before Run.
type gathering struct {
	least int
	every time.Duration
	// gathered are the layers whose files have moved, by their directory; moves counts
	// changes of it, and relocated has the trees that were looked at since.
	gathered  map[string]*layer
	moves     uint64
	relocated map[snapshot.ID]relocatedTree
	// readers are under way with a tree, by number.
	readers map[int]struct{}
	reader  int
	// graces are what must end before files of a layer are deleted.
	graces map[snapshot.ID]map[string]struct{}
}

// relocatedTree is a tree that need not be looked at again; it is not kept alive by that.
type relocatedTree struct {
	m     weak.Pointer[snapshot.Manifest]
	moves uint64
}

// gatherTask is something to do for a layer.
type gatherTask uint8

const (
	gatherFiles gatherTask = iota // gather its small files
	gatherImage                   // make its image again, which leads to files that have moved
	gatherPrune                   // delete those of its files that have
)

// gatherLoop does it all, one after the other.
func (s *Store) gatherLoop(ctx context.Context, g view.Gatherer) {
	failed := map[snapshot.ID]time.Time{}
	for ctx.Err() == nil {
		l, task, changed := s.nextGather(failed)
		if l == nil {
			select {
			case <-changed:
				s.pause(ctx, gatherPause)
			case <-time.After(s.gathering.every):
			case <-ctx.Done():
			}
			continue
		}
		s.waitQuiet(ctx)
		err := s.gatherOne(ctx, g, l, task)
		s.endImage(l)
		if errors.Is(err, errNoGain) {
			return
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		failed[l.info.ID] = s.o.Now().Add(gatherRetry)
		if isFull(err) {
			s.log.Info("no room to gather small files of a layer", "snapshot", l.info.ID, "error", err)
		} else {
			s.log.Warn("small files of a layer can't be gathered, its views open them one by one", "snapshot", l.info.ID, "error", err)
		}
	}
}

func (s *Store) gatherOne(ctx context.Context, g view.Gatherer, l *layer, task gatherTask) error {
	switch task {
	case gatherFiles:
		return s.gather(ctx, g, l)
	case gatherImage:
		return s.leadOn(ctx, g, l)
	case gatherPrune:
		return s.prune(ctx, g, l)
	}
	return nil
}

// nextGather finds the oldest layer with something to do, and keeps it from being
// removed until endImage. changed is closed when there may be something.
func (s *Store) nextGather(failed map[snapshot.ID]time.Time) (next *layer, task gatherTask, changed chan struct{}) {
	now := s.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.layers {
		if now.Before(failed[id]) || s.imaging[id] || next != nil && next.seq < l.seq {
			continue
		}
		if _, err := s.unpackedLocked(id); err != nil {
			continue
		}
		if t, ok := s.gatherTaskLocked(l); ok {
			next, task = l, t
		}
	}
	if next != nil {
		s.imaging[next.info.ID] = true
	}
	return next, task, s.changed
}

func (s *Store) gatherTaskLocked(l *layer) (gatherTask, bool) {
	p := l.place()
	if p.Image == "" || !p.Counted || stacked(p) {
		return 0, false // imageLoop makes one, or it can't be had
	}
	least := max(int64(s.gathering.least), l.info.Entries/gatherShare)
	if !p.Gathered && !l.info.Index.IsZero() && int64(p.SmallIn(p)) >= least {
		return gatherFiles, true
	}
	if len(p.Small) > 0 {
		for _, o := range s.gathering.gathered {
			if p.SmallIn(o.place()) > 0 {
				return gatherImage, true
			}
		}
	}
	return gatherPrune, p.Gathered && !p.Pruned && s.prunableLocked(l)
}

// gather makes the bundle of a packed layer, an image that leads into it, and the
// layer's place of both.
//
// Crash states, in order:
//  1. bundle, image or lists of sources written, in any number: the row names the old
//     files, which are all there. The image refers to a bundle that is whole, and the
//     lists to places that are right. It is done again.
//  2. after the row: gathered. The old files are there too.
//
// On a full disk 1 is undone but for what is whole, and the layer stays as it was.
func (s *Store) gather(ctx context.Context, g view.Gatherer, l *layer) error {
	t, n, err := s.treeAt(ctx, l)
	if err != nil {
		return err
	}
	defer lean(n)()
	was := l.place()
	place, t, err := g.Gather(ctx, was, t)
	if err != nil || place == nil {
		return errors.Join(err, noGain(place))
	}
	var m *snapshot.Manifest
	if !s.isLarge("", n) {
		if m, err = t.Manifest(n); err != nil {
			return err
		}
		t = view.TreeOf(m)
	}
	if place, err = g.ImageTree(ctx, place, was, t); err != nil {
		return err
	}
	fail.Point("store.gather.imaged")
	in, err := s.Lookup(l.info.ID)
	if err != nil {
		return err
	}
	b, err := s.encodeSourcesOf(in.Manifest, t)
	if err != nil {
		return err
	}
	for _, path := range []string{s.srcPath(in.ID), s.movedPath(in.ID)} {
		if err := writeSummed(path, b); err != nil {
			return err
		}
	}
	fail.Point("store.gather.written")
	err = s.setPlace(ctx, l, place, func() {
		s.gathering.movedLocked(l)
		if m != nil {
			s.trees.put(in.ID, m, len(m.Entries))
		} else {
			s.trees.drop(in.ID)
		}
	})
	if err == nil {
		fail.Point("store.gathered")
	}
	return err
}

// treeAt is the tree of a layer, of n entries or so, as a driver goes through it. A large
// packed one is not in memory unless it is there anyhow.
func (s *Store) treeAt(ctx context.Context, l *layer) (t view.Tree, n int, err error) {
	s.mu.Lock()
	n, packed := int(l.info.Entries), !l.info.Index.IsZero()
	s.mu.Unlock()
	if !packed || !s.isLarge("", n) {
		m, err := s.Tree(ctx, l.info.ID)
		return view.TreeOf(m), n, err
	}
	return s.readTree(ctx, l), n, nil
}

var errNoGain = errors.New("the driver has no use for a bundle here")

func noGain(place *view.Layer) error {
	if place == nil {
		return errNoGain
	}
	return nil
}

// leadOn makes an image of l that leads to where files have moved.
//
// Crash states: as of newImage. Both images are right.
func (s *Store) leadOn(ctx context.Context, g view.Gatherer, l *layer) error {
	t, n, err := s.treeAt(ctx, l)
	if err != nil {
		return err
	}
	defer lean(n)()
	was := l.place()
	place, err := g.ImageTree(ctx, was, was, t)
	if err != nil {
		return err
	}
	fail.Point("store.leadon.imaged")
	if err := s.setPlace(ctx, l, place, func() {}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.gathering.gathered {
		if n := place.SmallIn(o.place()); n > 0 {
			return fmt.Errorf("its new image leads to %d files of %s as before", n, o.info.ID)
		}
	}
	return nil
}

// prune deletes the files that are in a bundle now.
//
// Crash states, in order:
//  1. before the row: some of them are gone, which nothing shows. It is done again.
//  2. after it: pruned.
func (s *Store) prune(ctx context.Context, g view.Gatherer, l *layer) error {
	t, _, err := s.treeAt(ctx, l)
	if err != nil {
		return err
	}
	if err := g.Prune(ctx, l.place(), t); err != nil {
		return err
	}
	place := *l.place()
	place.Pruned = true
	if err := s.setPlace(ctx, l, &place, func() { delete(s.gathering.graces, l.info.ID) }); err != nil {
		return err
	}
	fail.Point("store.pruned")
	return nil
}

// prunableLocked reports whether nobody needs the old files of l any more: no layer,
// no view and no mount shows them, and whoever was at something when the last of
// those let go, and may have an old tree in hand, has come to its end.
func (s *Store) prunableLocked(l *layer) bool {
	id := l.info.ID
	if s.leanedOnLocked(l) {
		delete(s.gathering.graces, id)
		return false
	}
	now := s.underWayLocked()
	grace, ok := s.gathering.graces[id]
	if !ok {
		grace = now
		s.gathering.graces[id] = grace
	}
	for what := range grace {
		if _, ok := now[what]; !ok {
			delete(grace, what)
		}
	}
	return len(grace) == 0
}

// leanedOnLocked reports whether the old files of l are shown.
func (s *Store) leanedOnLocked(l *layer) bool {
	p := l.place()
	for _, o := range s.layers {
		if o.place().ReliesOn(p) {
			return true
		}
		if len(o.mounts) > 0 && (o == l || standsOn(o.place(), p)) {
			return true // which may be older than this process
		}
		for _, at := range o.mounts {
			if at.ReliesOn(p) {
				return true
			}
		}
	}
	for _, v := range s.views {
		if v.sealed {
			continue
		}
		if v.v == nil || v.v.Layer.ReliesOn(p) || v.onto != nil && v.onto.ReliesOn(p) {
			return true // or of an earlier process: nobody knows
		}
	}
	return false
}

// underWayLocked names what may be at work with trees.
func (s *Store) underWayLocked() map[string]struct{} {
	out := map[string]struct{}{}
	for id := range s.busy {
		out["busy "+string(id)] = struct{}{}
	}
	for id := range s.imports {
		out["import "+string(id)] = struct{}{}
	}
	for id := range s.imaging {
		out["image "+string(id)] = struct{}{}
	}
	if s.packing != "" {
		out["pack "+string(s.packing)] = struct{}{}
	}
	for n := range s.gathering.readers {
		out["read "+strconv.Itoa(n)] = struct{}{}
	}
	return out
}

// reading says that files will be read where a tree says that they are, until done
// is called.
func (s *Store) reading() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gathering.reader++
	n := s.gathering.reader
	s.gathering.readers[n] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.gathering.readers, n)
	}
}
