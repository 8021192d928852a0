package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// Seal turns a view whose processes are gone into a layer, and keeps outcome with
// it until Reported. When it returns the layer survives the process, though not yet a
// power cut (Info.Synced), and can be stood on. snapshot.ErrBusy says that somebody can still write; the view is then
// as before. Seal of a sealed view returns the layer again.
//
// What can't be part of a snapshot is found before the row is written: State is
// then Broken and Err the text of the *snapshot.UnsupportedError. A broken layer
// is never served. The names that the job touched are looked at for that, not
// read, while the driver unmounts: a seal takes one commit, which does not wait for the disk,
// and some 8 µs of CPU time for each of them and for each directory above them, on all
// cores.
// Anything more, and all that grows with the tree rather than with what was touched,
// is done behind it; no seal waits for that, and what Run does stands aside meanwhile.
//
// Crash states, in order:
//  1. before the row is committed, unmounted or not: the view is OPEN, and is
//     discarded at the next Open.
//  2. after it: SEALED (or Broken) with this boot's id and synced=0, listed in
//     Views with its outcome. After a reboot SUSPECT instead.
//  3. The power goes after it and before the row's record is in the redo log, which is
//     written at once but not waited for: there is no such row. What the view left is
//     state 1 again, or nobody's if the view's own row went too, and is deleted. To
//     everybody that is what SUSPECT is: a host that does not have the layer any more,
//     which could not be used either, since no sync of it had returned. Rows are lost from
//     the newest back, so that nothing is left that stands on it, was packed of it, or says
//     that it was synced. Its number in the order of rows may be given again; nobody
//     but this process knew it. Its id is not: that is the attempt's, and a further
//     attempt has its own. A coordinator that took the outcome keeps it: what is then
//     reported of the view, that its agent died, is of an attempt that has ended.
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
	defer s.gate.Hold()()
	l = s.newLayer(v)
	checked := make(chan error, 1)
	if stacked(l.place()) {
		if !s.spawn(func() { checked <- s.check(context.WithoutCancel(ctx), l) }) {
			return Info{}, errClosed
		}
	}
	s.noteSealing(v, true)
	err := s.driver.Seal(ctx, v.v)
	if !stacked(l.place()) {
		checked <- s.checkTree(ctx, l, err)
	}
	if checkErr := <-checked; err == nil && checkErr != nil {
		condemn(&l.info, checkErr)
	}
	if err != nil {
		s.noteSealing(v, false)
		return Info{}, err
	}
	s.inherit(l)
	s.distrust(l, v)
	fail.Point("store.sealed")
	in, err := s.enter(ctx, l, v, outcome)
	if err != nil {
		return Info{}, err // Seal or Discard can be called again
	}
	if v.outlives {
		removeFile(s.openPath(id), s.log)
	}
	s.tell()
	if in.State != Sealed {
		s.log.Warn("what a job left is not used", "snapshot", id, "state", in.State, "error", in.Err)
	}
	return in, nil
}

// enter writes a new layer's row, and shows it.
func (s *Store) enter(ctx context.Context, l *layer, v *openView, outcome []byte) (Info, error) {
	if err := s.insertSealed(ctx, l, outcome); err != nil {
		return Info{}, err
	}
	fail.Point("store.seal.row")
	in := s.show(l, v, outcome)
	if on := s.onUnusable(l); on != "" && in.State.Usable() { // since inherit, and who found it did not know of l
		s.fallen(context.WithoutCancel(ctx), l, errors.New(standsOnSuspect(on)))
		return s.Lookup(in.ID)
	}
	return in, nil
}

// inherit makes a layer suspect if what its view stood on became so meanwhile.
func (s *Store) inherit(l *layer) {
	if on := s.onUnusable(l); on != "" && l.info.State.Usable() {
		l.info.State, l.info.Err = Suspect, standsOnSuspect(on)
	}
}

// distrust makes a layer suspect if its job may have read what was damaged.
func (s *Store) distrust(l *layer, v *openView) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Also of one that stands on what is suspect now: that may be repaired, what the job
	// made of it not.
	if v.doubt != "" && (l.info.State.Usable() || l.info.State == Suspect) {
		l.info.State, l.info.Err = Suspect, v.doubt
	}
}

// condemn notes in a layer that is not shown yet what is wrong with it. What may
// pass by itself (no descriptors) is only noted: packing looks at it again.
func condemn(in *Info, why error) {
	in.Err = why.Error()
	if passing(why) {
		return
	}
	var missing *MissingError
	if errors.As(why, &missing) { // not what the job left: what it stands on became suspect
		in.State = Suspect
		return
	}
	in.State = Broken
	var unsupported *snapshot.UnsupportedError
	if errors.As(why, &unsupported) {
		in.Err = unsupported.Error() // people want the path and what it is, not who found it
	}
}

// settle makes sure that the merge is written, if the view shows one: the layer can't
// be understood without it. Nothing else that runs beside the job is waited for.
func (s *Store) settle(ctx context.Context, v *openView) error {
	if v.fanin == nil {
		return nil
	}
	select {
	case <-v.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	written := v.fanin.written
	s.mu.Unlock()
	if written {
		return nil
	}
	return s.writeFanin(v.id, v.fanin.n, v.fanin.changes)
}

func (s *Store) newLayer(v *openView) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &layer{
		seq: s.nextSeq, boot: s.o.BootID, key: v.key, fanin: v.fanin != nil, unsized: true, atMost: -1,
		info: Info{ID: v.id, Base: v.base, Parents: v.parents, State: Sealed},
	}
	l.at.Store(&v.v.Layer)
	s.nextSeq++
	return l
}

func (s *Store) insertSealed(ctx context.Context, l *layer, outcome []byte) error {
	return s.mustCommitSoon(ctx, func(ctx context.Context, tx *txn) error {
		if err := s.insertLayer(ctx, tx, l); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE views SET sealed=1, outcome=? WHERE id=?", outcome, string(l.info.ID))
		return err
	})
}

func (s *Store) show(l *layer, v *openView, outcome []byte) Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[l.info.ID] = l
	s.touchLocked(l.info.ID)
	v.sealed, v.outcome = true, bytes.Clone(outcome)
	v.v, v.fanin = nil, nil
	s.announceLocked(l)
	return s.infoLocked(l)
}

// endUse writes a state that ends a layer's use, and shows it, written or not:
// better not served than wrong.
func (s *Store) endUse(ctx context.Context, l *layer, st State, why error) error {
	set := func(in *Info) error {
		in.State, in.Err = st, why.Error()
		return nil
	}
	s.mu.Lock()
	was := l.use.was
	if l.info.State.Usable() && st == Suspect {
		was = l.info.State
	}
	s.mu.Unlock()
	err := s.change(ctx, l, edit{set: set, more: func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "UPDATE layers SET was=? WHERE id=?", string(was), string(l.info.ID))
		return err
	}, show: func() { l.use.was = was }})
	if err != nil {
		s.mu.Lock()
		l.use.was = was
		set(&l.info) //nolint:errcheck // it has none
		s.announceLocked(l)
		s.mu.Unlock()
	}
	s.trees.drop(l.info.ID)
	s.tell()
	return err
}

// edit is a change of a layer's row.
type edit struct {
	// set changes the row. It is called twice, for the row and for what is shown.
	set func(*Info) error
	// more writes further rows in the same transaction; may be nil.
	more func(ctx context.Context, tx *txn) error
	// show changes what else is in memory, with Store.mu held; may be nil.
	show func()
}

// change writes an edit, then shows it. The caller calls tell.
func (s *Store) change(ctx context.Context, l *layer, e edit) error {
	s.rows.Lock()
	defer s.rows.Unlock()
	s.mu.Lock()
	in := l.info
	s.mu.Unlock()
	if err := e.set(&in); err != nil {
		return err
	}
	err := s.mustCommit(ctx, func(ctx context.Context, tx *txn) error {
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
	err = e.set(&l.info)
	s.announceLocked(l)
	return err
}

// passing says of an error that the same attempt may succeed later.
func passing(err error) bool {
	for _, e := range []error{
		context.Canceled, context.DeadlineExceeded, errClosed, syscall.ENOSPC, syscall.EDQUOT,
		syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EINTR,
	} {
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
	err = s.mustCommit(ctx, func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM views WHERE id=?", string(id))
		return err
	})
	if err != nil {
		return fmt.Errorf("view %s: %w", id, err)
	}
	s.forget(v)
	return nil
}

// Settle waits until all that was acknowledged so far survives a power cut as far as its
// row goes, which is moments behind a seal: for who tells others of it whom nobody else
// would. It ends with ctx.
func (s *Store) Settle(ctx context.Context) error {
	s.committing.Lock()
	r := s.redo
	s.committing.Unlock()
	if r == nil {
		return nil
	}
	done := make(chan error, 1)
	if !s.spawn(func() { done <- s.record(r, allOfIt) }) {
		return errClosed
	}
	select {
	case err := <-done:
		return dbError(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
