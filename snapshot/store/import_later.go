package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// A layer that was imported with Later is usable as soon as its content is in the
// kernel's memory. Its row says Synced=false and in which boot that was. All that is
// small (index, manifest, sources, image, row) is on the disk as that of any import.
//
// Crash states:
//  1. the process dies, the kernel goes on: nothing is lost, the layer is used.
//  2. the kernel stops before the row says Synced: at the next Open, in another boot,
//     the layer is Suspect. Nothing of it is looked at or shown; the next import of its
//     id removes it and fetches it again.
//  3. the kernel stops after that: held.
//
// No other layer becomes durable on one that is not: Create, Pull and Import sync what
// theirs stands on before they begin, and Run syncs in the order in which layers came.

// pending reports whether l was imported and is not on the disk for good. Store.mu is
// held.
func (l *layer) pending() bool {
	return l.imported && !l.info.Synced && l.info.State.Usable() && !l.removing
}

// SyncLater brings a snapshot that was imported with Later, and what it stands on, to
// disk. Of any other it does nothing. An error says that its bytes may be lost: it is
// Suspect.
func (s *Store) SyncLater(ctx context.Context, id snapshot.ID) error {
	for at := id; at != ""; {
		s.mu.Lock()
		l, err := s.usableLocked(at)
		pending := err == nil && l.pending()
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if pending {
			if err := s.syncOne(ctx, l); err != nil {
				return fmt.Errorf("sync snapshot %s: %w", at, err)
			}
		}
		at = l.info.Base
	}
	return nil
}

// syncOne syncs a layer, and tells how it came out.
func (s *Store) syncOne(ctx context.Context, l *layer) error {
	s.sync(ctx, l)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.usableLocked(l.info.ID); err != nil {
		return err
	}
	if !l.info.Synced {
		return errors.New("its row could not be written")
	}
	return nil
}
