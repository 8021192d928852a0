package store

import (
	"context"
	"slices"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/view"
)

// maxStacked is how many layers a view may stand on before it waits for an image.
const maxStacked = 24

// imager is a driver that can show a whole tree from its manifest.
type imager = view.Imager

// imageLoop makes an image of each layer that is stacked on others, the oldest
// first, so that what stands on it later stands on one thing. A layer of which none
// can be made stays as it is until the store is opened again.
func (s *Store) imageLoop(ctx context.Context) {
	failed := map[snapshot.ID]bool{}
	for {
		l := s.nextImage(failed)
		if l == nil {
			select {
			case <-s.wakeImages:
			case <-ctx.Done():
				return
			}
			continue
		}
		s.waitQuiet(ctx)
		err := s.image(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failed[l.info.ID] = true
			s.log.Warn("no image can be made of a layer, its views stand on a stack", "snapshot", l.info.ID, "error", err)
			continue
		}
		s.warmImage(ctx, l)
	}
}

// warmImage has the new image of l mounted if the next job may well be put on it: a view
// stands on l, and on so many more that the next one is restacked.
func (s *Store) warmImage(ctx context.Context, l *layer) {
	im, ok := s.driver.(imager)
	place := l.place()
	high := false
	s.mu.Lock()
	for _, v := range s.views {
		high = high || v.v != nil && len(v.v.Layer.Lowers) >= maxStacked/3-1 && slices.Contains(v.v.Layer.Lowers, place.Dir)
	}
	s.mu.Unlock()
	if !ok || !high || stacked(place) {
		return
	}
	quiet.Step(ctx)
	if err := im.Warm(ctx, place); err != nil && ctx.Err() == nil {
		s.log.Warn("a new image can't be mounted", "snapshot", l.info.ID, "error", err)
	}
}

func (s *Store) nextImage(failed map[snapshot.ID]bool) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next *layer
	for id, l := range s.layers {
		if _, err := s.usableLocked(id); err != nil || failed[id] || s.imaging[id] || !stacked(l.place()) {
			continue
		}
		if next == nil || l.seq < next.seq {
			next = l
		}
	}
	return next
}

// lower returns what a view of l is to stand on. One that would stand too high waits
// for an image of l.
func (s *Store) lower(ctx context.Context, l *layer) (*view.Layer, error) {
	if _, ok := s.driver.(imager); !ok {
		return l.place(), nil
	}
	if place := s.restack(l); len(place.Lowers) <= maxStacked {
		return place, nil
	}
	err := s.image(ctx, l)
	if ctx.Err() != nil {
		return nil, err
	}
	if err != nil { // the driver has its own ways, and limits
		s.log.Warn("no image can be made of a high stack", "snapshot", l.info.ID, "error", err)
	}
	return l.place(), nil
}

// restack returns where l is, with a high stack put on the image of the nearest layer in
// it that has one by now. Each job that starts right behind another one stands on the
// other's upper and on all that this one stood on: without it, such a line would grow
// until somebody has to wait for an image. Below maxStacked/3 it is left alone, since an
// image that nobody has mounted yet costs more than some directories.
func (s *Store) restack(l *layer) *view.Layer {
	place := l.place()
	if len(place.Lowers) <= maxStacked/3 {
		return place
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := l; !at.fanin && at.info.Base != ""; { // a merge leads into places of its own
		n, err := s.usableLocked(at.info.Base)
		if err != nil {
			return place
		}
		on := n.place()
		k := slices.Index(place.Lowers, on.Dir)
		if k < 0 {
			return place
		}
		if !stacked(on) && on.Image != "" {
			p := *on
			p.ID, p.Dir, p.Lowers = place.ID, place.Dir, slices.Clone(place.Lowers[:k])
			p.Gathered, p.Pruned = place.Gathered, place.Pruned
			return &p
		}
		at = n
	}
	return place
}

// image makes an image of l, and of what is stacked no more from then on.
//
// Crash states, in order:
//  1. before the row is changed: a file that no row names, in the layer's own
//     directory. It is made again.
//  2. after it: the layer stands on its image. Views made before go on as they are.
func (s *Store) image(ctx context.Context, l *layer) error {
	ok, err := s.beginImage(ctx, l)
	if !ok || err != nil {
		return err
	}
	defer s.endImage(l)
	if d := s.long(ctx, l); d != nil {
		return s.imageLong(ctx, d, l)
	}
	m, err := s.Tree(ctx, l.info.ID)
	if err != nil {
		return err
	}
	return s.newImage(ctx, l, m)
}

// newImage makes an image of l, whose tree is m, the place of l.
func (s *Store) newImage(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	place, err := s.draw(ctx, l, l.place(), m)
	if err != nil {
		return err
	}
	fail.Point("store.imaged")
	return s.setPlace(ctx, l, place, func() { fail.Point("store.image.row") })
}

// draw has the driver make an image of l, which is at place and whose tree is m.
// It keeps the inode numbers of l's base. A driver that makes none shows place as
// it is.
func (s *Store) draw(ctx context.Context, l *layer, place *view.Layer, m *snapshot.Manifest) (*view.Layer, error) {
	im, ok := s.driver.(imager)
	if !ok {
		return place, nil
	}
	return im.Image(ctx, place, s.placeBelow(l), m)
}

// placeBelow is the place of l's base, nil if it has none.
func (s *Store) placeBelow(l *layer) *view.Layer {
	s.mu.Lock()
	base := s.layers[l.info.Base]
	s.mu.Unlock()
	if base == nil {
		return nil
	}
	return base.place()
}

// beginImage keeps l from being removed, and waits for whoever makes an image of it
// already. It reports false if there is nothing to do.
func (s *Store) beginImage(ctx context.Context, l *layer) (bool, error) {
	for {
		s.mu.Lock()
		changed, busy := s.changed, s.imaging[l.info.ID]
		_, err := s.usableLocked(l.info.ID)
		todo := err == nil && stacked(l.place())
		if todo && !busy {
			s.imaging[l.info.ID] = true
		}
		s.mu.Unlock()
		if !todo || !busy {
			return todo, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

func (s *Store) endImage(l *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.imaging, l.info.ID)
	s.wakeLocked()
}
