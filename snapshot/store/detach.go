package store

import (
	"bufio"
	"context"
	"fmt"
	"slices"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// What was made on a base says in its index only what differs from that, so the base is
// held as long as it is. Detach ends that, for who wants the base to go first, as people
// do who keep the newest of a line. No content is read or stored: the index names it in
// the packs that there are, which stay as long as anybody names them.

// OnTop lists the snapshots whose indexes are against that of id.
func (s *Store) OnTop(id snapshot.ID) []snapshot.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []snapshot.ID
	for _, l := range s.layers {
		if l.info.WireBase == id {
			out = append(out, l.info.ID)
		}
	}
	slices.SortFunc(out, compareID)
	return out
}

// Detach makes a packed snapshot's index one that names its whole tree, so that what it
// was made on may be removed. It is refused with snapshot.ErrBusy while the snapshot's
// files lie with its base's too, as those of a job do, and where content that it has from
// its base is not in packs here.
//
// Crash states, in order:
//  1. until the row: the new index is a file of no row; Open deletes it.
//  2. after it: detached. The old index is a file of no row.
func (s *Store) Detach(ctx context.Context, id snapshot.ID) error {
	end, err := s.begin(id, "detach")
	if err != nil {
		return err
	}
	defer end()
	defer s.reading()()
	if err := s.detach(ctx, id); err != nil {
		return fmt.Errorf("detach snapshot %s: %w", id, err)
	}
	s.tell()
	return nil
}

func (s *Store) detach(ctx context.Context, id snapshot.ID) error {
	s.mu.Lock()
	l, err := s.usableLocked(id)
	var was Info
	if err == nil {
		was = l.info
	}
	s.mu.Unlock()
	if err != nil || was.WireBase == "" {
		return err
	}
	if err := s.detachable(l); err != nil {
		return err
	}
	defer lean(int(was.Entries))()
	ix, err := s.standalone(ctx, l)
	if err != nil {
		return err
	}
	defer s.named.release(id)
	index, indexBytes, err := s.writeIndexBy(id, func(w *bufio.Writer) (snapshot.Digest, error) { return pack.WriteIndex(w, ix) })
	if err != nil {
		return err
	}
	fail.Point("store.detach.written")
	err = s.change(ctx, l, edit{
		set: func(in *Info) error {
			in.WireBase = ""
			in.StoredBytes += indexBytes - in.IndexBytes
			in.Index, in.IndexBytes = index, indexBytes
			in.weigh(ix)
			return nil
		},
		more: func(ctx context.Context, tx *txn) error {
			if _, err := tx.ExecContext(ctx, "DELETE FROM packs WHERE layer=?", string(id)); err != nil {
				return err
			}
			return insertPacks(ctx, tx, id, ix.Packs)
		},
		show: func() {
			l.packs = ix.Packs
			s.have[index] = blobFile{path: s.indexPath(index), bytes: indexBytes}
		},
	})
	if err != nil {
		return err
	}
	fail.Point("store.detach.row")
	s.located.drop(id)
	s.dropIndex(id, was.Index)
	return nil
}

// detachable refuses what can't stand alone.
func (s *Store) detachable(l *layer) error {
	s.mu.Lock()
	based := l.info.Base != "" || l.below > 0
	s.mu.Unlock()
	if based {
		return fmt.Errorf("%w: its files lie with those of what it was made on, as a job's do", snapshot.ErrBusy)
	}
	chain, err := s.Chain(l.info.ID)
	if err != nil {
		return err
	}
	for i := range chain {
		if len(chain[i].Absent) > 0 {
			return fmt.Errorf("%w: packs of %s are not here", snapshot.ErrBusy, chain[i].ID)
		}
	}
	return nil
}

// standalone makes an index of all that l has.
func (s *Store) standalone(ctx context.Context, l *layer) (*pack.Index, error) {
	m, err := s.Tree(ctx, l.info.ID)
	if err != nil {
		return nil, err
	}
	chain, err := s.wireChain(l.info.ID)
	if err != nil {
		return nil, err
	}
	lo := s.locate(chain)
	lo.all = true
	defer lo.forget()
	ix, err := s.indexOf(ctx, l.key, lo, m)
	if err != nil {
		return nil, err
	}
	ix.Manifest = l.info.Manifest
	own := map[snapshot.Digest]bool{}
	for _, p := range l.packs {
		own[p.Digest] = p.Own
	}
	for i := range ix.Packs {
		ix.Packs[i].Own = own[ix.Packs[i].Digest]
	}
	return ix, nil
}

// dropIndex deletes an index that the row of id has named, if no other does or is about
// to.
func (s *Store) dropIndex(id snapshot.ID, d snapshot.Digest) {
	s.named.mu.Lock()
	defer s.named.mu.Unlock()
	if s.named.othersLocked(id)[d.String()] {
		return
	}
	s.mu.Lock()
	for _, o := range s.layers {
		if o.info.Index == d {
			s.mu.Unlock()
			return
		}
	}
	delete(s.have, d)
	s.mu.Unlock()
	removeFile(s.indexPath(d), s.log)
}
