package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"syscall"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// Seal turns a view whose processes are gone into a layer, and keeps outcome with
// it until Reported. When it returns the layer survives the process and can be
// stood on. snapshot.ErrBusy says that somebody can still write; the view is then
// as before. Seal of a sealed view returns the layer again.
//
// The job's files are looked at, not read, while the row goes to disk; so the
// state in Info is final as to what can't be part of a snapshot: Broken with the
// text of the *snapshot.UnsupportedError. A broken layer is never served.
//
// Crash states, in order:
//  1. before the row is committed, unmounted or not: the view is OPEN, and is
//     discarded at the next Open.
//  2. after it: SEALED with this boot's id and synced=0, listed in Views with its
//     outcome. Open looks at the files again, so what is broken is broken then too.
//     After a reboot instead it is SUSPECT.
//  3. after the row that says broken, if any: as after Seal.
func (s *Store) Seal(ctx context.Context, id snapshot.ID, outcome []byte) (Info, error) {
	end, err := s.begin(id, "seal")
	if err != nil {
		return Info{}, fmt.Errorf("seal view: %w", err)
	}
	defer end()
	defer s.hurry()()
	in, err := s.seal(ctx, id, outcome)
	if err != nil {
		return Info{}, fmt.Errorf("seal view %s: %w", id, err)
	}
	return in, nil
}

func (s *Store) seal(ctx context.Context, id snapshot.ID, outcome []byte) (Info, error) {
	s.mu.Lock()
	v, ok := s.views[id]
	l := s.layers[id]
	s.mu.Unlock()
	switch {
	case l != nil:
		return s.Lookup(id)
	case !ok:
		return Info{}, missing("no such view", id)
	case v.v == nil:
		return Info{}, errors.New("it was opened by an earlier process and can only be discarded")
	}
	if err := s.settle(ctx, v); err != nil {
		return Info{}, err
	}
	if err := s.driver.Seal(ctx, v.v); err != nil {
		return Info{}, err
	}
	fail.Point("store.sealed")
	l = s.newLayer(v)
	scanned := make(chan error, 1)
	if !s.spawn(func() { scanned <- s.scan(s.life, l, v) }) {
		return Info{}, errClosed
	}
	err := s.insertSealed(ctx, l, outcome)
	fail.Point("store.seal.row")
	if scanErr := <-scanned; err == nil && scanErr != nil {
		err = s.condemn(ctx, l, scanErr)
	}
	if err != nil {
		return Info{}, err // Seal or Discard can be called again
	}
	s.show(l, v, outcome)
	in, err := s.Lookup(id)
	if err == nil {
		s.o.OnChange(in)
	}
	if in.State == Sealed {
		s.startTree(l) // so that the next job need not wait for it
	}
	return in, err
}

// settle waits for what runs beside the job and makes sure that the merge is
// written: the layer can't be understood without it.
func (s *Store) settle(ctx context.Context, v *openView) error {
	select {
	case <-v.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if v.fanin == nil {
		return nil
	}
	s.mu.Lock()
	written := v.fanin.written
	s.mu.Unlock()
	if written {
		return nil
	}
	return s.writeFanin(v.id, v.fanin.changes)
}

func (s *Store) newLayer(v *openView) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &layer{
		seq: s.nextSeq, place: v.v.Layer, boot: s.o.BootID, key: v.key, fanin: v.fanin != nil, unsized: true,
		info: Info{ID: v.id, Base: v.base, Parents: v.parents, State: Sealed},
	}
	s.nextSeq++
	return l
}

func (s *Store) insertSealed(ctx context.Context, l *layer, outcome []byte) error {
	return s.mustCommit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := s.insertLayer(ctx, tx, l); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE views SET sealed=1, outcome=? WHERE id=?", outcome, string(l.info.ID))
		return err
	})
}

func (s *Store) show(l *layer, v *openView, outcome []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[l.info.ID] = l
	v.sealed, v.outcome = true, bytes.Clone(outcome)
	v.v, v.fanin = nil, nil
	s.announceLocked()
}

// scan looks at what the job left. v is nil at Open, when the start tree has to be
// computed from its parts.
func (s *Store) scan(ctx context.Context, l *layer, v *openView) error {
	var start *snapshot.Manifest
	var err error
	if v != nil && v.fanin != nil {
		start = v.fanin.tree
	} else if start, err = s.startingTree(ctx, l); err != nil {
		return err
	}
	changes, err := s.driver.Changes(ctx, &l.place, start)
	if err != nil {
		return err
	}
	n, exact := bytesAfter(start, changes)
	s.mu.Lock()
	defer s.mu.Unlock()
	l.changes = changes
	if exact {
		l.info.TreeBytes, l.unsized = n, false
	}
	return nil
}

// bytesAfter is what Manifest.Bytes of the changed tree will be, without making
// it. With hard links it can't tell.
func bytesAfter(start *snapshot.Manifest, changes []snapshot.Change) (n int64, exact bool) {
	if start == nil {
		start = &snapshot.Manifest{}
	}
	for i := range start.Entries {
		if start.Entries[i].Link != "" {
			return 0, false
		}
		n += start.Entries[i].Size
	}
	gone := "" // the last directory whose old content is gone as a whole
	for i := range changes {
		c := &changes[i]
		path := c.Entry.Path
		if c.Entry.Link != "" {
			return 0, false
		}
		if !c.Delete {
			n += c.Entry.Size
		}
		old, ok := start.Find(path)
		if !ok || (gone != "" && overlaps(gone, path)) {
			continue
		}
		n -= old.Size
		if old.Type == snapshot.TypeDir && (c.Delete || c.Replace || c.Entry.Type != snapshot.TypeDir) {
			gone = path
			for _, e := range start.Under(path) {
				n -= e.Size
			}
		}
	}
	return n, true
}

// condemn notes that a sealed layer can't be used. What may pass by itself (no
// space, no descriptors) is only noted: packing looks at the layer again.
func (s *Store) condemn(ctx context.Context, l *layer, why error) error {
	if passing(why) {
		s.mu.Lock()
		l.info.Err = why.Error()
		s.mu.Unlock()
		return nil
	}
	s.log.Warn("what the job left can't be a snapshot", "snapshot", l.info.ID, "error", why)
	var unsupported *snapshot.UnsupportedError
	if errors.As(why, &unsupported) {
		why = unsupported // people want the path and what it is, not who found it
	}
	return s.endUse(ctx, l, Broken, why)
}

// endUse writes a state that ends a layer's use, and shows it, written or not:
// better not served than wrong.
func (s *Store) endUse(ctx context.Context, l *layer, st State, why error) error {
	set := func(in *Info) error {
		in.State, in.Err = st, why.Error()
		return nil
	}
	err := s.change(ctx, l, edit{set: set})
	s.mu.Lock()
	set(&l.info) //nolint:errcheck // it has none
	l.changes = nil
	s.announceLocked()
	s.mu.Unlock()
	s.trees.drop(l.info.ID)
	return err
}

// edit is a change of a layer's row.
type edit struct {
	// set changes the row. It is called twice, for the row and for what is shown.
	set func(*Info) error
	// more writes further rows in the same transaction; may be nil.
	more func(ctx context.Context, tx *sql.Tx) error
	// show changes what else is in memory, with Store.mu held; may be nil.
	show func()
}

// change writes an edit, then shows it.
func (s *Store) change(ctx context.Context, l *layer, e edit) error {
	s.rows.Lock()
	defer s.rows.Unlock()
	s.mu.Lock()
	in := l.info
	s.mu.Unlock()
	if err := e.set(&in); err != nil {
		return err
	}
	err := s.mustCommit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := updateLayer(ctx, tx, &in); err != nil || e.more == nil {
			return err
		}
		return e.more(ctx, tx)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.show != nil {
		e.show()
	}
	s.announceLocked()
	return e.set(&l.info)
}

// passing says of an error that the same attempt may succeed later.
func passing(err error) bool {
	for _, e := range []error{context.Canceled, context.DeadlineExceeded, errClosed, syscall.ENOSPC, syscall.EDQUOT,
		syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Reported forgets the outcome of a sealed view: the coordinator has it.
func (s *Store) Reported(ctx context.Context, id snapshot.ID) error {
	end, err := s.begin(id, "report")
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	v, ok := s.views[id]
	open := ok && !v.sealed
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if open {
		return fmt.Errorf("view %s is open, there is no outcome to report", id)
	}
	err = s.mustCommit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM views WHERE id=?", string(id))
		return err
	})
	if err != nil {
		return fmt.Errorf("view %s: %w", id, err)
	}
	s.forget(v)
	return nil
}
