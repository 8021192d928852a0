package store

import (
	"context"
	"encoding/json"

	"github.com/roost-ci/roost/snapshot/view"
)

// setPlace writes where the driver has l, then shows it, and what else show says.
func (s *Store) setPlace(ctx context.Context, l *layer, place *view.Layer, show func()) error {
	err := s.mustCommit(ctx, func(ctx context.Context, tx *txn) error { return writePlace(ctx, tx, l, place) })
	if err != nil {
		return err
	}
	s.showPlace(l, place, show)
	return nil
}

// writePlace is the part of setPlace in a transaction.
func writePlace(ctx context.Context, tx *txn, l *layer, place *view.Layer) error {
	b, err := json.Marshal(place)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "UPDATE layers SET place=? WHERE id=?", string(b), string(l.info.ID))
	return err
}

// showPlace is the part of setPlace in memory; show is called with Store.mu held.
func (s *Store) showPlace(l *layer, place *view.Layer, show func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.at.Store(place)
	show()
}
