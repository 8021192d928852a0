package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// OpenBlob opens a pack or an index that this host has, and returns its size.
// What it holds is checked by whoever receives it, against the digest that it
// asked for. Otherwise the error is a snapshot.ErrNotFound.
func (s *Store) OpenBlob(_ context.Context, d snapshot.Digest) (io.ReadSeekCloser, int64, error) {
	s.mu.Lock()
	b, ok := s.have[d]
	s.mu.Unlock()
	if !ok {
		return nil, 0, fmt.Errorf("blob %s: %w", d, snapshot.ErrNotFound)
	}
	f, err := os.Open(b.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("blob %s: %w", d, snapshot.ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("blob %s: %w", d, err)
	}
	return f, b.bytes, nil
}

// MarkDurable notes that the blob store has all of a packed layer. Its packs are
// then not needed here: the files lie in the layer's own directory. They go when
// no other layer waits for its upload with them; the index stays.
//
// Crash states: before the row the layer is uploaded again, which finds everything
// there. After it the packs are files that no row needs; Open deletes them.
func (s *Store) MarkDurable(ctx context.Context, id snapshot.ID) error {
	end, err := s.begin(id, "mark durable")
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	l, err := s.usableLocked(id)
	done := err == nil && l.info.State == Durable
	if done { // after Reoffer
		for _, p := range l.packs {
			s.stale = append(s.stale, p.Digest)
		}
		s.pokeLocked()
	}
	s.mu.Unlock()
	if err != nil || done {
		return err
	}
	err = s.change(ctx, l, edit{
		set: func(in *Info) error {
			if in.State != Packed && in.State != Durable {
				return errors.New("it is not packed yet, so it can't be durable")
			}
			in.State = Durable
			return nil
		},
		show: func() {
			for _, p := range l.packs {
				s.stale = append(s.stale, p.Digest)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	fail.Point("store.durable.row")
	s.tell()
	return nil
}

// dropStale deletes packs that no layer needs any more. Only the packer calls it,
// between two layers, so a pack that is just being made again is not deleted.
func (s *Store) dropStale() {
	s.mu.Lock()
	needed := map[snapshot.Digest]bool{}
	if len(s.stale) > 0 {
		for _, l := range s.layers {
			for _, p := range l.packs {
				needed[p.Digest] = needed[p.Digest] || l.info.State != Durable || l.stored()
			}
		}
	}
	var paths []string
	for _, d := range s.stale {
		if !needed[d] {
			delete(s.have, d)
			paths = append(paths, s.packPath(d))
		}
	}
	s.stale = nil
	s.mu.Unlock()
	for _, p := range paths {
		removeFile(p, s.log)
	}
}
