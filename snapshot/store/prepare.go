package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// errNoKey: without a key chunk ids would tell strangers what is in the files.
var errNoKey = errors.New("no domain key given")

// maxClaim bounds the agent's note.
const maxClaim = 1 << 20

// Prepare makes a view of the inputs at p.Target. It needs all inputs and, of
// several, the snapshots that they have in common: *MissingError names those that
// are not usable here. A merge that the policy does not decide is a
// *snapshot.ConflictError. On error nothing is left of the view.
//
// Crash states, in order:
//  1. before the row is committed: nothing was made.
//  2. after it, until Seal: an OPEN view. Views lists it with its claim at the
//     next Open, Reconcile has unmounted it, and Discard removes what there is,
//     however much that may be. One that outlives the process is still mounted then,
//     if Prepare had returned.
//
// Prepare does not wait for the disk: the row is safe from a power cut moments later. If the power goes before that there is no such view, and
// Reconcile deletes what there is of it. Nobody was promised more of an open view.
func (s *Store) Prepare(ctx context.Context, p PrepareSpec) (*Attached, error) {
	began := s.o.Now()
	if len(p.DomainKey) == 0 {
		return nil, fmt.Errorf("prepare view %s: %w", p.ID, errNoKey)
	}
	if len(p.Claim) > maxClaim {
		return nil, fmt.Errorf("prepare view %s: a claim of %d bytes is too long", p.ID, len(p.Claim))
	}
	end, err := s.begin(p.ID, "prepare")
	if err != nil {
		return nil, fmt.Errorf("prepare view: %w", err)
	}
	defer end()
	defer s.hurry()()
	plan, err := s.plan(ctx, &p)
	if err != nil {
		return nil, fmt.Errorf("prepare view %s: %w", p.ID, err)
	}
	a, err := s.attach(ctx, &p, plan)
	if err != nil {
		return nil, fmt.Errorf("prepare view %s: %w", p.ID, err)
	}
	a.Elapsed = s.o.Now().Sub(began)
	return a, nil
}

// hurry makes background syncs wait until done is called: a sync of the file
// system holds up every commit on it.
func (s *Store) hurry() (done func()) {
	s.mu.Lock()
	s.sealing++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.sealing--
		if s.sealing == 0 {
			s.wakeLocked()
			s.pokeLocked()
		}
		s.mu.Unlock()
	}
}

// plan is what a view stands on.
type plan struct {
	base    *layer // nil for an empty view
	parents []snapshot.ID
	stands  []snapshot.ID
	fanin   *fanin // nil if the base's tree is what the view shows

	// merge is nil unless there were several inputs. key is that of an image that shows
	// it with files at the places of moves, and again says that it was made before.
	merge    *mergeResult
	again    bool
	key      string
	moves    uint64
	diverged int
}

// attach does the durable part of Prepare.
func (s *Store) attach(ctx context.Context, p *PrepareSpec, pl *plan) (*Attached, error) {
	v := &openView{
		id: p.ID, target: p.Target, claim: bytes.Clone(p.Claim), key: bytes.Clone(p.DomainKey),
		parents: pl.parents, stands: pl.stands, fanin: pl.fanin, ready: make(chan struct{}),
		outlives: p.Outlives,
	}
	spec := view.Spec{ID: p.ID, Target: p.Target, UID: p.UID, GID: p.GID, Meter: &view.Meter{}}
	if pl.base != nil {
		on, err := s.lower(ctx, pl.base)
		if err != nil {
			return nil, err
		}
		v.base, v.onto = pl.base.info.ID, on
		spec.Base = v.onto
	}
	if pl.fanin != nil {
		defer lean(pl.merge.entries)()
		spec.Fanin = s.shown(ctx, pl)
	}
	defer s.gate.Hold()() // from here on it waits for nothing that is done behind
	if err := s.claim(v); err != nil {
		return nil, err
	}
	if err := s.insertView(ctx, v); err != nil {
		s.forget(v)
		return nil, err
	}
	fail.Point("store.prepare.row")
	mounted, err := s.driver.Prepare(ctx, spec)
	if err != nil {
		err = errors.Join(err, s.undo(ctx, v))
		if pl.base != nil {
			s.blame(ctx, pl.base, err)
		}
		return nil, err
	}
	fail.Point("store.prepared")
	if key := mounted.MergeKey(); key != "" {
		s.merges.imaged(pl.merge, pl.moves, key)
	}
	s.mu.Lock()
	v.v = mounted
	s.mu.Unlock()
	if !s.spawn(func() { defer close(v.ready); s.warm(v, pl.fanin, &mounted.Layer) }) {
		close(v.ready)
	}
	a := &Attached{
		ID: v.id, Target: mounted.Target, Written: spec.Meter.Written(), Merged: pl.merge != nil,
		MTimeDivergence: pl.diverged,
	}
	a.TreeBytes = s.size(pl)
	if v.outlives {
		if err := s.noteOutliving(v); err != nil {
			return nil, errors.Join(err, s.undo(ctx, v))
		}
	}
	return a, nil
}

// blame makes the layer suspect that err found damaged, or else l on which the view
// would stand: a good copy of it is fetched for the next try.
func (s *Store) blame(ctx context.Context, l *layer, err error) {
	var corrupt *snapshot.CorruptError
	if !errors.As(err, &corrupt) {
		return
	}
	if in, ok := s.rel(corrupt.Name); ok {
		s.mu.Lock()
		for _, o := range s.layers {
			if !o.stored() && overlaps(in, path.Dir(o.place().Dir)) {
				l = o
				break
			}
		}
		s.mu.Unlock()
	}
	s.log.Error("a layer is damaged", "snapshot", l.info.ID, "error", err)
	s.fallen(context.WithoutCancel(ctx), l, err)
	s.tell()
}

// claim shows the view to Remove, which must leave alone what it stands on.
func (s *Store) claim(v *openView) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.views[v.id]; ok {
		return errors.New("there is such a view already")
	}
	if _, ok := s.layers[v.id]; ok {
		return errors.New("there is such a snapshot already")
	}
	for _, id := range v.stands {
		if _, err := s.usableLocked(id); err != nil {
			return err
		}
	}
	s.views[v.id] = v
	s.touchLocked(v.stands...)
	return nil
}

func (s *Store) forget(v *openView) {
	s.mu.Lock()
	delete(s.views, v.id)
	s.mu.Unlock()
}

func (s *Store) insertView(ctx context.Context, v *openView) error {
	return s.commitSoon(ctx, func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO views (id, target, claim, made) VALUES (?,?,?,?)",
			string(v.id), v.target, v.claim, s.o.Now().UnixNano())
		return err
	})
}

// undo drops a view that could not be prepared. If that fails it stays listed in
// Views and can be discarded again.
func (s *Store) undo(ctx context.Context, v *openView) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return s.discard(ctx, v)
}

// warm looks for what Seal will need while the job runs: a merge is written down. A
// driver whose layers are whole trees compares them with the base's, which is brought
// into memory.
func (s *Store) warm(v *openView, f *fanin, l *view.Layer) {
	if f != nil {
		if err := s.writeFanin(v.id, f.n, f.changes); err != nil {
			s.log.Warn("can't write down a merge, its view can't be sealed yet", "view", v.id, "error", err)
			return
		}
		s.mu.Lock()
		f.written, f.changes = true, nil
		s.mu.Unlock()
		return
	}
	if v.base != "" && !stacked(l) && !s.longBelow(s.life, v.base) {
		if _, err := s.Tree(s.life, v.base); err != nil && s.life.Err() == nil {
			s.log.Warn("can't read the tree of a view's base", "view", v.id, "base", v.base, "error", err)
		}
	}
}

// size is how many bytes the view shows, as far as that is known without waiting for
// its base's tree.
func (s *Store) size(pl *plan) int64 {
	if pl.merge != nil {
		return pl.merge.bytes
	}
	if pl.base == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, pl.base.mostLocked())
}

// Discard drops a view and all that was written in it, also one left by an
// earlier process. It needs no space on the disk. A view that there is not is
// discarded.
//
// Crash states: the row goes last, so until then the view is still listed as OPEN
// and is discarded again.
func (s *Store) Discard(ctx context.Context, id snapshot.ID) error {
	end, err := s.begin(id, "discard")
	if err != nil {
		return fmt.Errorf("discard view: %w", err)
	}
	defer end()
	s.mu.Lock()
	v, ok := s.views[id]
	sealed := ok && v.sealed
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if sealed {
		return fmt.Errorf("discard view %s: it is sealed", id)
	}
	if err := s.discard(ctx, v); err != nil {
		return fmt.Errorf("discard view %s: %w", id, err)
	}
	return nil
}

func (s *Store) discard(ctx context.Context, v *openView) error {
	mounted := v.v
	if mounted == nil {
		mounted = &view.View{ID: v.id, Target: v.target, Layer: view.Layer{ID: v.id}}
	} else if v.fanin != nil {
		<-v.ready // or the file of the merge could come after its removal
	}
	if err := s.driver.Discard(ctx, mounted); err != nil {
		return err
	}
	fail.Point("store.discarded")
	removeFile(s.faninPath(v.id), s.log)
	if v.outlives {
		removeFile(s.openPath(v.id), s.log)
	}
	err := s.mustCommit(ctx, func(ctx context.Context, tx *txn) error {
		// The layer's row is there if a seal's commit seemed not to work.
		_, err := tx.ExecContext(ctx, "DELETE FROM layers WHERE id=?", string(v.id))
		if err == nil {
			_, err = tx.ExecContext(ctx, "DELETE FROM views WHERE id=?", string(v.id))
		}
		return err
	})
	if err != nil {
		return err
	}
	s.forget(v)
	s.trees.drop(v.id)
	s.longs.forget(v.id)
	s.retakeReserve()
	return nil
}

// Needs returns the snapshots that Prepare would miss here, sorted: inputs, and
// of several inputs the ancestors that they have in common.
func (s *Store) Needs(p PrepareSpec) []snapshot.ID {
	graph := s.graph(&p)
	ids := maximalInputs(graph, p.Inputs)
	want := slices.Clone(ids)
	if len(ids) > 1 {
		want = append(want, commonBases(graph, ids)...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []snapshot.ID
	for _, id := range want {
		if _, err := s.usableLocked(id); err != nil {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
