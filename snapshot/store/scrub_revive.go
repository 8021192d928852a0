package store

import (
	"context"
	"slices"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// restore makes a suspect layer that was found good what it was before.
func (x *scrubber) restore(ctx context.Context, l *layer) error {
	s := x.s
	st, err := x.formerState(ctx, l)
	if st == "" || err != nil {
		return err
	}
	if err := s.revive(ctx, l, st); err != nil {
		return err
	}
	x.r.Restored = append(x.r.Restored, l.info.ID)
	for _, o := range s.sealedOn(l) {
		if err := s.revive(ctx, o, Sealed); err != nil {
			return err
		}
		x.r.Restored = append(x.r.Restored, o.info.ID)
	}
	return nil
}

// formerState is what a layer that is good may be: what the row says that it was, if
// all of that is still there.
func (x *scrubber) formerState(ctx context.Context, l *layer) (State, error) {
	s := x.s
	s.mu.Lock()
	st, suspect, here := l.use.was, l.info.State == Suspect, true
	for _, p := range l.packs {
		_, ok := s.have[p.Digest]
		here = here && (ok || !p.Own)
	}
	blobs := allBlobs(l)
	s.mu.Unlock()
	switch {
	case !suspect:
		return "", nil
	case st == Durable || st == Packed && here:
		return st, nil
	case here:
		return Packed, nil
	case x.o.Size == nil:
		return "", nil
	}
	for _, b := range blobs {
		n, err := x.o.Size(ctx, b.Digest)
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err != nil || n != b.Bytes {
			return "", nil //nolint:nilerr // then it stays suspect
		}
	}
	return Durable, nil
}

// revive makes a suspect layer usable again.
func (s *Store) revive(ctx context.Context, l *layer, st State) error {
	err := s.change(ctx, l, edit{set: func(in *Info) error {
		in.State, in.Err = st, ""
		return nil
	}})
	if err == nil {
		fail.Point("store.scrub.revived")
		s.tell()
	}
	return err
}

// sealedOn lists the layers that became suspect because l was, and have no digests by
// which they could be looked at themselves.
func (s *Store) sealedOn(l *layer) []*layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*layer
	good := map[snapshot.ID]bool{l.info.ID: true}
	all := make([]*layer, 0, len(s.layers))
	for _, o := range s.layers {
		all = append(all, o)
	}
	slices.SortFunc(all, bySeq)
	for _, o := range all {
		if o.info.State != Suspect || o.use.was != Sealed || !o.info.Index.IsZero() || o.info.Err != standsOnSuspect(o.info.Base) || !good[o.info.Base] {
			continue
		}
		if slices.ContainsFunc(o.info.Parents, func(id snapshot.ID) bool {
			p, ok := s.layers[id]
			return o.fanin && (!ok || !p.info.State.Usable())
		}) {
			continue
		}
		good[o.info.ID] = true
		out = append(out, o)
	}
	return out
}

// standsOnSuspect is why a layer is suspect that is not damaged itself.
func standsOnSuspect(id snapshot.ID) string { return "stands on " + string(id) + ", which is suspect" }

// checkedNow notes that all of a layer was read and is right.
func (s *Store) checkedNow(ctx context.Context, l *layer) error {
	now := s.o.Now()
	err := s.commit(ctx, func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "UPDATE layers SET checked=? WHERE id=?", now.UnixNano(), string(l.info.ID))
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	l.use.checked = now
	s.mu.Unlock()
	return nil
}

// doubt remembers of the views that stand on l that their jobs may have read what is
// wrong.
func (s *Store) doubt(l *layer, why string) {
	var note []*openView
	s.mu.Lock()
	for _, v := range s.views {
		if v.sealed {
			continue
		}
		for _, id := range v.stands {
			if o, ok := s.layers[id]; ok && (o == l || o.info.State == Suspect) {
				if v.outlives && v.doubt != why {
					note = append(note, v)
				}
				v.doubt = why
			}
		}
	}
	s.mu.Unlock()
	for _, v := range note {
		if err := s.noteOutliving(v); err != nil {
			s.log.Warn("the next process would not know that a view is in doubt", "view", v.id, "error", err)
		}
	}
}
