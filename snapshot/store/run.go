package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/view"
)

// Packing that did not work is tried again, later each time.
const (
	retryFirst = time.Second
	retryMost  = time.Minute
	// syncPatience bounds how long a sync waits for seals that keep coming.
	syncPatience = 2 * time.Second
)

// Run does the background work until ctx ends: it brings sealed layers to disk for
// good, then scans and packs them, a base before what stands on it, and has images
// made of what is stacked, and small files gathered, where the driver can. It returns nil
// when ctx has ended and all that it started has too. A layer that can't be packed
// keeps the reason in its Info and is tried again; Run goes on with the others.
func (s *Store) Run(ctx context.Context) error {
	if !s.running.TryLock() {
		return errors.New("store: Run is running already")
	}
	defer s.running.Unlock()
	g, ctx := errgroup.WithContext(quiet.Aside(ctx, &s.gate))
	synced := make(chan struct{}, 1)
	g.Go(func() error { s.syncLoop(ctx, synced); return nil })
	g.Go(func() error { s.packLoop(ctx, synced); return nil })
	if _, ok := s.driver.(imager); ok {
		g.Go(func() error { s.imageLoop(ctx); return nil })
	}
	if d, ok := s.driver.(view.Gatherer); ok {
		g.Go(func() error { s.gatherLoop(ctx, d); return nil })
	}
	return g.Wait()
}

// syncLoop syncs layers in the order in which they were sealed.
func (s *Store) syncLoop(ctx context.Context, synced chan<- struct{}) {
	for {
		l := s.nextUnsynced()
		if l == nil {
			s.checkpoint(ctx)
			select {
			case <-s.wake:
			case <-ctx.Done():
				return
			}
			notify(synced) // what woke us may be news for the packer
			continue
		}
		s.waitQuiet(ctx)
		if ctx.Err() != nil {
			return
		}
		s.sync(ctx, l)
		notify(synced)
	}
}

func notify(c chan<- struct{}) { // and never waits
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *Store) nextUnsynced() *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next *layer
	for _, l := range s.layers {
		todo := l.info.State == Sealed && !l.info.Synced && !l.removing || l.pending()
		if todo && (next == nil || l.seq < next.seq) {
			next = l
		}
	}
	return next
}

// waitQuiet waits until no seal or prepare is under way, for a while.
func (s *Store) waitQuiet(ctx context.Context) {
	patience := time.NewTimer(syncPatience)
	defer patience.Stop()
	for {
		s.mu.Lock()
		busy := s.sealing > 0
		changed := s.changed
		s.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-changed:
		case <-patience.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// sync makes one layer synced, unless somebody has done it meanwhile.
//
// Crash states: before the row is committed the layer is SEALED, and after a
// reboot SUSPECT although its bytes may be there; after it, it outlives power cuts.
// An error is final, since a second sync can say yes to lost bytes: SUSPECT.
func (s *Store) sync(ctx context.Context, l *layer) {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	done := l.info.Synced || !l.info.State.Usable()
	s.mu.Unlock()
	if done {
		return
	}
	err := s.driver.Sync(ctx, l.place())
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return
	}
	s.countSync(err)
	if err != nil {
		s.log.Error("a sealed layer can't be synced", "snapshot", l.info.ID, "error", err)
		// Also if ctx has ended: nobody would be told of this error again.
		s.fallen(context.WithoutCancel(ctx), l, fmt.Errorf("sync: %w", err))
		return
	}
	fail.Point("store.synced")
	err = s.change(ctx, l, edit{set: func(in *Info) error { in.Synced = true; return nil }})
	if err != nil {
		s.log.Error("can't note that a layer is synced", "snapshot", l.info.ID, "error", err)
		s.pause(ctx, retryFirst)
		return
	}
	fail.Point("store.sync.row")
	s.tell()
}

// syncsInARow is how many layers in a row can't be synced until the disk is not to be
// trusted with more of them.
const syncsInARow = 2

// countSync notes how the sync of a layer came out.
func (s *Store) countSync(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.badSyncs, s.badSync = 0, nil
		return
	}
	s.badSyncs, s.badSync = s.badSyncs+1, err
}

// Failing returns why no more jobs should be given to this store: several layers in a
// row could not be brought to disk. It is nil again once one could.
func (s *Store) Failing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.badSyncs < syncsInARow {
		return nil
	}
	return fmt.Errorf("the last %d layers could not be brought to disk: %w", s.badSyncs, s.badSync)
}

// fallen makes a layer, and all that stands on it, suspect.
func (s *Store) fallen(ctx context.Context, l *layer, why error) {
	if err := s.endUse(ctx, l, Suspect, why); err != nil {
		s.log.Error("can't note that a layer is suspect", "snapshot", l.info.ID, "error", err)
	}
	s.mu.Lock()
	var on []*layer
	for _, o := range s.layers {
		if o.info.State.Usable() && o.needs(l.info.ID) {
			on = append(on, o)
		}
	}
	s.mu.Unlock()
	for _, o := range on {
		s.fallen(ctx, o, errors.New(standsOnSuspect(l.info.ID)))
	}
}

func (s *Store) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// retry is when a layer may be packed again.
type retry struct {
	wait time.Duration
	at   time.Time
}

// packLoop packs one layer after the other; encoding uses all cores by itself.
func (s *Store) packLoop(ctx context.Context, synced <-chan struct{}) {
	later := map[snapshot.ID]*retry{}
	for ctx.Err() == nil {
		s.dropStale()
		l, wait := s.nextToPack(later)
		if l == nil {
			select {
			case <-synced:
			case <-after(wait):
			case <-ctx.Done():
			}
			continue
		}
		id := l.info.ID
		err := s.pack(ctx, l)
		s.named.release(id)
		s.packed()
		if err == nil || ctx.Err() != nil {
			delete(later, id)
			continue
		}
		s.packFailed(ctx, l, err)
		r := later[id]
		if r == nil {
			r = &retry{wait: retryFirst}
			later[id] = r
		} else {
			r.wait = min(2*r.wait, retryMost)
		}
		r.at = s.o.Now().Add(r.wait)
	}
}

// packed says that no layer is being packed now, to whom wants to remove it.
func (s *Store) packed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packing = ""
	s.wakeLocked()
}

// after is time.After, never for 0.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

// nextToPack returns the layer to pack now, or how long to wait for one that
// failed before (0: until something happens). Urgent ones and all they stand on
// come first, then the order of sealing.
func (s *Store) nextToPack(later map[snapshot.ID]*retry) (l *layer, wait time.Duration) {
	now := s.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	urgent := s.urgentLocked()
	for _, o := range s.layers {
		if !s.packableLocked(o) {
			continue
		}
		if r := later[o.info.ID]; r != nil && now.Before(r.at) {
			if d := r.at.Sub(now); wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		u := urgent[o.info.ID]
		if l == nil || (u && !urgent[l.info.ID]) || (u == urgent[l.info.ID] && o.seq < l.seq) {
			l = o
		}
	}
	if l != nil {
		s.packing = l.info.ID
	}
	return l, wait
}

func (s *Store) packableLocked(l *layer) bool {
	if l.info.State != Sealed || !l.info.Synced || l.removing {
		return false
	}
	if l.info.Base == "" {
		return true
	}
	base, ok := s.layers[l.info.Base]
	return ok && (base.info.State == Packed || base.info.State == Durable)
}

// urgentLocked is the set asked for by First with all that it needs, and drops
// from the list what is done.
func (s *Store) urgentLocked() map[snapshot.ID]bool {
	set := map[snapshot.ID]bool{}
	left := s.first[:0]
	for _, id := range s.first {
		if l, ok := s.layers[id]; ok && l.info.State == Sealed {
			left = append(left, id)
		}
	}
	s.first = left
	todo := append([]snapshot.ID(nil), left...)
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		l, ok := s.layers[id]
		if !ok || set[id] || l.info.State != Sealed {
			continue
		}
		set[id] = true
		todo = append(append(todo, l.info.Base), l.info.Parents...)
	}
	return set
}

// First packs these, and what they stand on, before others. What is not held or
// is packed already is ignored.
func (s *Store) First(ids ...snapshot.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if l, ok := s.layers[id]; ok && l.info.State == Sealed {
			s.first = append(s.first, id)
		}
	}
	s.pokeLocked()
}

// Packed waits until a layer is packed, and sees to it that it is next. Run must
// be running.
func (s *Store) Packed(ctx context.Context, id snapshot.ID) (Info, error) {
	s.First(id)
	for {
		s.mu.Lock()
		changed := s.changed
		l, err := s.usableLocked(id)
		var in Info
		if err == nil {
			in = s.infoLocked(l)
		}
		s.mu.Unlock()
		if err != nil {
			return Info{}, err
		}
		if in.State != Sealed {
			return in, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if in.Err != "" {
				return in, fmt.Errorf("snapshot %s is not packed: %s: %w", id, in.Err, context.Cause(ctx))
			}
			return in, fmt.Errorf("snapshot %s is not packed: %w", id, context.Cause(ctx))
		}
	}
}
