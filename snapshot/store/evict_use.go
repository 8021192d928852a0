package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// use is what eviction and the scrub go by. Store.mu guards it.
type use struct {
	used    time.Time // when a view, an import or a mount last stood on it
	checked time.Time // when all of it was last read and found right
	tried   time.Time // when that was last begun, in this process
	pinned  bool      // by people: not to be evicted
	was     State     // what a suspect layer was before; "" if not known
}

// useEvery is how often uses are written down. A crash loses those since: then a
// layer looks less used than it is, by no more than this.
const useEvery = time.Minute

// last is when a layer was last of use.
func (l *layer) last() time.Time {
	if l.use.used.Before(l.info.Made) {
		return l.info.Made
	}
	return l.use.used
}

// touchLocked notes that something stands on id now. It is written down later.
func (s *Store) touchLocked(ids ...snapshot.ID) {
	now := s.o.Now()
	for _, id := range ids {
		if l, ok := s.layers[id]; ok {
			l.use.used = now
			s.useNews[id] = struct{}{}
		}
	}
}

// saveUse writes the uses since the last time, if that was long enough ago. What
// can't be written stays for the next time: it is worth no error.
func (s *Store) saveUse(ctx context.Context, every time.Duration) {
	now := s.o.Now()
	s.mu.Lock()
	if len(s.useNews) == 0 || now.Sub(s.useAt) < every {
		s.mu.Unlock()
		return
	}
	uses := make(map[snapshot.ID]time.Time, len(s.useNews))
	for id := range s.useNews {
		if l, ok := s.layers[id]; ok {
			uses[id] = l.use.used
		}
	}
	clear(s.useNews)
	s.useAt = now
	s.mu.Unlock()
	err := s.commit(ctx, func(ctx context.Context, tx *txn) error {
		for id, at := range uses {
			if _, err := tx.ExecContext(ctx, "UPDATE layers SET used=? WHERE id=?", at.UnixNano(), string(id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return
	}
	s.log.Debug("can't note when layers were used", "error", err)
	s.mu.Lock()
	for id := range uses {
		s.useNews[id] = struct{}{}
	}
	s.mu.Unlock()
}

// loadUse fills layer.use.
func (s *Store) loadUse(ctx context.Context) error {
	const q = "SELECT id, used, checked, pinned, was FROM layers"
	return s.each(ctx, q, func(r *sql.Rows) error {
		var id snapshot.ID
		var used, checked int64
		var u use
		if err := r.Scan(&id, &used, &checked, &u.pinned, &u.was); err != nil {
			return err
		}
		u.used, u.checked = time.Unix(0, used), time.Unix(0, checked)
		if l, ok := s.layers[id]; ok {
			l.use = u
		}
		return nil
	})
}

// Pin keeps a layer, and what it stands on, from being evicted until it is let go.
func (s *Store) Pin(ctx context.Context, id snapshot.ID, pinned bool) error {
	s.mu.Lock()
	l, ok := s.layers[id]
	s.mu.Unlock()
	if !ok {
		return missing("not held", id)
	}
	err := s.mustCommit(ctx, func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "UPDATE layers SET pinned=? WHERE id=?", pinned, string(id))
		return err
	})
	if err != nil {
		return fmt.Errorf("pin snapshot %s: %w", id, err)
	}
	s.mu.Lock()
	l.use.pinned = pinned
	s.mu.Unlock()
	return nil
}

// Hold keeps snapshots from being removed until release is called, those that are
// not held yet too: whoever was promised a job holds its inputs before it looks
// what is missing. If one is being removed just then, Hold waits for the end of
// that, so that it can be imported again at once.
func (s *Store) Hold(ctx context.Context, ids ...snapshot.ID) (release func(), err error) {
	release, err = s.hold(ctx, ids...)
	if err == nil {
		s.mu.Lock()
		s.touchLocked(ids...)
		s.mu.Unlock()
	}
	return release, err
}

// hold is Hold by who has no use for them.
func (s *Store) hold(ctx context.Context, ids ...snapshot.ID) (release func(), err error) {
	s.mu.Lock()
	for _, id := range ids {
		s.held[id]++
	}
	s.mu.Unlock()
	once := make(chan struct{}, 1)
	once <- struct{}{}
	release = func() {
		select {
		case <-once:
		default:
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			if s.held[id]--; s.held[id] == 0 {
				delete(s.held, id)
			}
		}
	}
	for _, id := range ids {
		if err := s.waitRemoved(ctx, id); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// waitRemoved waits while id is being removed.
func (s *Store) waitRemoved(ctx context.Context, id snapshot.ID) error {
	for {
		s.mu.Lock()
		busy, changed := s.busy[id] == removing, s.changed
		s.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("snapshot %s is being removed: %w", id, context.Cause(ctx))
		}
	}
}
