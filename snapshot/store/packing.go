package store

import (
	"context"
	"io"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/tree"
)

// packNice is how much packing yields to the jobs of this host, which wait for nothing
// that it does. What another host waits for is packed next, but no faster.
const packNice = 10

// pack makes a synced layer PACKED: its content is in packs, its changes in an
// index, its tree in a manifest, each read back before the row names it.
//
// Crash states, in order:
//  1. packs, index, manifest or sources written, in any number: files of no row;
//     Open deletes them and packing begins again.
//  2. after the row: PACKED. From now on the digests say what the snapshot is.
func (s *Store) pack(ctx context.Context, l *layer) error {
	if d := s.long(ctx, l); d != nil {
		return s.packInParts(ctx, d, l)
	}
	e, err := s.encode(ctx, l)
	if err != nil {
		return err
	}
	if err := s.savePacked(ctx, l, e); err != nil {
		s.strayPacks(e)
		return err
	}
	return nil
}

// strayPacks notes that nobody needs the packs of e after all. It may be nil.
func (s *Store) strayPacks(e *encoded) {
	if e == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range e.ix.Packs {
		if p.Own {
			s.stale = append(s.stale, p.Digest)
		}
	}
}

// encoded is a layer whose content is in packs.
type encoded struct {
	ix    *pack.Index
	tree  *snapshot.Manifest // the whole snapshot, hashed; nil of a long one
	base  snapshot.ID        // what the index's changes are against
	stats pack.Stats
	sum   totals // of the tree
	own   int64  // bytes of the files that the layer itself has
}

// encode hashes and packs what the layer changed against its base's manifest.
func (s *Store) encode(ctx context.Context, l *layer) (*encoded, error) {
	var base *snapshot.Manifest
	var baseDigest snapshot.Digest
	if l.info.Base != "" {
		var err error
		if base, err = s.Tree(ctx, l.info.Base); err != nil {
			return nil, err
		}
		in, err := s.Lookup(l.info.Base)
		if err != nil {
			return nil, err
		}
		baseDigest = in.Manifest
	}
	m, err := s.Tree(ctx, l.info.ID)
	if err != nil {
		return nil, err
	}
	changes := tree.DiffAside(ctx, base, m)
	if err := s.fillKnown(ctx, l, changes); err != nil {
		return nil, err
	}
	known, err := s.known(l)
	if err != nil {
		return nil, err
	}
	o := s.encoder(l.key, known, previous(base))
	o.Nice = packNice
	e := &encoded{base: l.info.Base}
	if e.ix, e.stats, err = pack.Encode(ctx, o, changes); err != nil {
		return nil, err
	}
	fail.Point("store.pack.encoded")
	e.ix.Base = baseDigest
	if e.tree, err = tree.ApplyAside(ctx, base, e.ix.Changes); err != nil {
		return nil, err
	}
	e.sum = totals{e.tree.Bytes(), int64(len(e.tree.Entries))}
	e.own = s.ownBytes(l.place(), e.ix)
	if s.chainLen(l.info.Base) >= s.o.MaxChain {
		if err := beginAnew(ctx, o, e); err != nil {
			return nil, err
		}
	}
	e.ix.Manifest, err = pack.WriteManifest(quiet.Writer(ctx, io.Discard), e.tree) // its digest alone
	return e, err
}
