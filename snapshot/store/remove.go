package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// ErrOnlyCopy says that removing a layer would lose the snapshot.
var ErrOnlyCopy = errors.New("there may be no other copy of it")

// removing is what is under way on a layer that is being removed.
const removing = "remove"

// errPacking passes.
var errPacking = fmt.Errorf("%w: it is being packed", snapshot.ErrBusy)

// Remove deletes a layer. It is refused with snapshot.ErrBusy while something
// stands on it, and with ErrOnlyCopy unless it is Durable, suspect or broken. A
// layer that is not held is removed. No space is needed on the disk.
//
// Crash states, in order:
//  1. before the row is gone: held as before.
//  2. after it: an intent to delete; Open finishes it. The id may be imported again
//     only when that is done.
//  3. after the intent is gone: not held.
func (s *Store) Remove(ctx context.Context, id snapshot.ID) error { return s.removeID(ctx, id, false) }

// Drop is Remove also for a layer of which there may be no other copy. If it is
// being packed just then, or an image of it made, Drop waits for the end of that.
func (s *Store) Drop(ctx context.Context, id snapshot.ID) error {
	for {
		s.mu.Lock()
		changed, busy := s.changed, s.packing == id || s.imaging[id]
		s.mu.Unlock()
		if !busy {
			err := s.removeID(ctx, id, true)
			if !errors.Is(err, errPacking) {
				return err
			}
			continue // it has begun meanwhile
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("remove snapshot %s: %w", id, context.Cause(ctx))
		}
	}
}

func (s *Store) removeID(ctx context.Context, id snapshot.ID, force bool) error {
	end, err := s.begin(id, removing)
	if err != nil {
		return err
	}
	defer func() {
		end()
		s.mu.Lock()
		s.wakeLocked() // Hold may wait for it
		s.mu.Unlock()
	}()
	s.mu.Lock()
	l, ok := s.layers[id]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if err := s.remove(ctx, l, force); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, l *layer, force bool) error {
	if err := s.markRemoving(l, force); err != nil {
		return err
	}
	if err := s.removeRow(ctx, l); err != nil {
		s.mu.Lock()
		l.removing = false
		s.mu.Unlock()
		return err
	}
	fail.Point("store.remove.row")
	s.mu.Lock()
	delete(s.layers, l.info.ID)
	delete(s.views, l.info.ID)                    // of a sealed one that nobody will report now
	l.info.State, l.info.Err = Suspect, "removed" // for who still waits for it
	s.wakeLocked()
	s.mu.Unlock()
	s.mu.Lock()
	s.gathering.forgetLocked(l)
	s.mu.Unlock()
	s.merges.forget(l)
	s.trees.drop(l.info.ID)
	s.longs.forget(l.info.ID)
	s.located.drop(l.info.ID)
	s.removeFiles(l)
	if err := s.finishRemoval(ctx, l.info.ID, l.place()); err != nil {
		return err
	}
	s.retakeReserve()
	return nil
}

// markRemoving stops others from standing on l from now on.
func (s *Store) markRemoving(l *layer, force bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if what, on := s.standingLocked(l); what != "" {
		return fmt.Errorf("%w: %s %s stands on it", snapshot.ErrBusy, what, on)
	}
	if s.packing == l.info.ID || s.imaging[l.info.ID] {
		return errPacking
	}
	if st := l.info.State; !force && (st == Sealed || st == Packed) {
		return ErrOnlyCopy
	}
	l.removing = true
	return nil
}

func (s *Store) removeRow(ctx context.Context, l *layer) error {
	place, err := json.Marshal(l.place())
	if err != nil {
		return err
	}
	id := string(l.info.ID)
	return s.mustCommit(ctx, func(ctx context.Context, tx *txn) error {
		for _, q := range []string{
			"DELETE FROM layers WHERE id=?", "DELETE FROM packs WHERE layer=?", "DELETE FROM views WHERE id=?",
		} {
			if _, err := tx.ExecContext(ctx, q, id); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO intents (id, place) VALUES (?,?)", id, string(place))
		return err
	})
}

// removeFiles deletes what the store itself keeps of a layer and no other needs.
// What stays is deleted by the next Open.
func (s *Store) removeFiles(l *layer) {
	s.named.mu.Lock()
	defer s.named.mu.Unlock()
	want := s.named.othersLocked(l.info.ID)
	s.mu.Lock()
	for _, o := range s.layers {
		want[o.info.Manifest.String()] = true
		want[o.info.Index.String()] = true
	}
	index := l.info.Index
	if !want[index.String()] {
		delete(s.have, index)
	}
	for _, p := range l.packs {
		s.stale = append(s.stale, p.Digest)
	}
	s.pokeLocked()
	s.mu.Unlock()
	removeFile(s.srcPath(l.info.ID), s.log)
	removeFile(s.movedPath(l.info.ID), s.log)
	removeFile(s.faninPath(l.info.ID), s.log)
	removeFile(s.stampPath(l.info.ID), s.log)
	if !want[index.String()] {
		removeFile(s.indexPath(index), s.log)
	}
	if !want[l.info.Manifest.String()] {
		removeFile(s.manifestPath(l.info.Manifest), s.log)
	}
}

// finishRemoval deletes the layer's directory, then forgets the intent.
func (s *Store) finishRemoval(ctx context.Context, id snapshot.ID, place *view.Layer) error {
	if place.ID != "" { // else the driver has nothing of it
		if err := s.driver.Remove(ctx, place); err != nil {
			return err
		}
	}
	fail.Point("store.removed")
	return s.mustCommit(ctx, func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM intents WHERE id=?", string(id))
		return err
	})
}

// retakeReserve takes the reserve again if it was given up and there is room.
func (s *Store) retakeReserve() {
	if err := s.reserve.take(); err != nil {
		s.log.Debug("no room for the reserve yet", "error", err)
	}
}

// Mount shows a snapshot read-only at target until the closer is closed.
func (s *Store) Mount(ctx context.Context, id snapshot.ID, target string) (io.Closer, error) {
	s.mu.Lock()
	l, err := s.unpackedLocked(id)
	var place view.Layer
	if err == nil {
		place = *l.place()
		l.mounts = append(l.mounts, &place)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	release := func() {
		s.mu.Lock()
		l.mounts = slices.DeleteFunc(l.mounts, func(p *view.Layer) bool { return p == &place })
		s.mu.Unlock()
	}
	c, err := s.driver.Mount(ctx, &place, target)
	if err != nil {
		release()
		return nil, fmt.Errorf("mount snapshot %s: %w", id, err)
	}
	return &mounted{Closer: c, release: sync.OnceFunc(release)}, nil
}

// mounted lets go of a layer when its mount is closed.
type mounted struct {
	io.Closer
	release func()
}

func (m *mounted) Close() error {
	if err := m.Closer.Close(); err != nil {
		return err
	}
	m.release()
	return nil
}
