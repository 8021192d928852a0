package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// A layer that was created from a directory, or pulled, is stored only: index,
// packs and manifest are here, and the driver has nothing of it: its place is
// empty. It can be restored, compared, verified, pushed and be what the next one
// is created on. No view stands on it before Materialise. Its Base is "", since no
// file of it lies with another layer; its WireBase is whose index says where the
// rest of its content is, and that layer is held as long as it is.

// ErrStoredOnly says that a snapshot's content is in packs alone.
var ErrStoredOnly = errors.New("stored only, its content is not unpacked")

// stored reports whether the driver has nothing of l.
func (l *layer) stored() bool { return l.place().ID == "" }

// unpackedLocked returns a layer that views may stand on now.
func (s *Store) unpackedLocked(id snapshot.ID) (*layer, error) {
	l, err := s.usableLocked(id)
	if err == nil && l.stored() {
		return nil, fmt.Errorf("snapshot %s: %w", id, ErrStoredOnly)
	}
	return l, err
}

// standIn returns the layer nearest below l, which is stored only, whose files are here,
// if packs that chain names are not: what came unpacked has none. A file that l has at
// the same path and with the same content is there; all else is in the packs of the
// upper part, which are held. nil: there is none, or no need of one.
func (s *Store) standIn(l *layer, chain []Info) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !l.stored() {
		return nil
	}
	var near *layer
	away := false
	for i := range chain {
		below, err := s.usableLocked(chain[i].ID)
		if err != nil {
			continue
		}
		if near == nil && !below.stored() {
			near = below
		}
		away = away || slices.ContainsFunc(below.packs, func(p pack.Pack) bool {
			_, held := s.have[p.Digest]
			return !held
		})
	}
	if !away {
		return nil
	}
	return near
}

// Materialise unpacks a snapshot that is stored only, so that views can stand on
// it and Mount can show it. Of any other it does nothing. Packs stay: they are the
// copy that a damaged file is found by. m counts the content bytes written.
//
// Crash states, in order:
//  1. while the driver unpacks, and until the row: a directory of a layer that has
//     no place; Open removes it.
//  2. after the row: unpacked.
func (s *Store) Materialise(ctx context.Context, id snapshot.ID, m *view.Meter) error {
	end, err := s.begin(id, "unpack")
	if err != nil {
		return err
	}
	defer end()
	defer s.reading()()
	s.mu.Lock()
	l, err := s.usableLocked(id)
	s.mu.Unlock()
	if err != nil || !l.stored() {
		return err
	}
	if err := s.materialise(ctx, l, m); err != nil {
		return fmt.Errorf("unpack snapshot %s: %w", id, err)
	}
	return nil
}

func (s *Store) materialise(ctx context.Context, l *layer, meter *view.Meter) error {
	// A walk over a manifest takes longer than one over a tree, and there are several.
	if d, ok := s.driver.(view.Streamer); ok && s.isLarge("", int(l.info.Entries)) {
		return s.materialiseInParts(ctx, d, l, meter)
	}
	t, err := s.Tree(ctx, l.info.ID)
	if err != nil {
		return err
	}
	ix, err := s.wholeIndex(ctx, l.info.ID, t)
	if err != nil {
		return err
	}
	o := pack.ExtractOptions{Key: l.key, Workers: s.o.Workers, Open: s.OpenRange}
	chain, err := s.wireChain(l.info.ID)
	if err != nil {
		return err
	}
	if base := s.standIn(l, chain); base != nil {
		b, err := s.Tree(ctx, base.info.ID)
		if err != nil {
			return fmt.Errorf("base: %w", err)
		}
		o.Previous = previous(b)
	}
	fill := func(ctx context.Context, write view.WriteFunc) error { return pack.Extract(ctx, ix, o, write) }
	place, err := s.driver.Unpack(ctx, l.info.ID, nil, ix.Changes, fill, meter)
	if err != nil {
		return err
	}
	fail.Point("store.materialise.unpacked")
	s.driver.Locate(place, ix.Changes)
	if err := s.settlePlace(ctx, l, place, ix); err != nil {
		return errors.Join(err, s.driver.Remove(context.WithoutCancel(ctx), place))
	}
	return nil
}

// settlePlace makes place, where the driver has unpacked ix, the place of l.
func (s *Store) settlePlace(ctx context.Context, l *layer, place *view.Layer, ix *pack.Index) error {
	t, err := tree.Apply(nil, ix.Changes)
	if err != nil {
		return err
	}
	if place, err = s.draw(ctx, l, place, t); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := s.writeSources(l.info.ID, l.info.Manifest, t); err != nil {
		return err
	}
	return s.commitSettled(ctx, l, place, l.info.StoredBytes+s.ownBytes(place, ix), t)
}

// commitSettled writes that l is at place, and shows it. t is its tree, if that is in
// memory.
func (s *Store) commitSettled(ctx context.Context, l *layer, place *view.Layer, disk int64, t *snapshot.Manifest) error {
	err := s.commit(ctx, func(ctx context.Context, tx *txn) error {
		if err := writePlace(ctx, tx, l, place); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE layers SET disk_bytes=? WHERE id=?", disk, string(l.info.ID))
		return err
	})
	if err != nil {
		return err
	}
	fail.Point("store.materialise.row")
	s.showPlace(l, place, func() {
		l.info.DiskBytes = disk
		if t != nil {
			s.trees.put(l.info.ID, t, len(t.Entries))
		} else {
			s.trees.drop(l.info.ID) // that one has no sources
		}
		s.announceLocked(l)
	})
	s.tell()
	return nil
}

// OpenRange opens n bytes, or all for n < 0, of a blob at off: an OpenBlobFunc of
// what this store has itself.
func (s *Store) OpenRange(_ context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	b, ok := s.have[d]
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, snapshot.ErrNotFound)
	}
	f, err := os.Open(b.path)
	if err != nil {
		return nil, lost("blob", d, err)
	}
	if n < 0 {
		n = b.bytes - off
	}
	return &section{Reader: io.NewSectionReader(f, off, n), Closer: f}, nil
}

type section struct {
	io.Reader
	io.Closer
}

// encoder are the options of an Encode into this store.
func (s *Store) encoder(key []byte, known func(snapshot.Digest) (pack.Location, bool),
	previous func(string) *snapshot.Entry,
) pack.EncoderOptions {
	return pack.EncoderOptions{
		Dir: filepath.Join(s.dir, "packs"), Tmp: filepath.Join(s.dir, "tmp"),
		Key: key, Workers: s.o.Workers, Known: known, Previous: previous,
	}
}
