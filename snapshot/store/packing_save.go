package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/view"
)

// savePacked writes index, manifest and sources, then the row.
func (s *Store) savePacked(ctx context.Context, l *layer, e *encoded) error {
	ix, m := e.ix, e.tree
	index, indexBytes, err := s.writeIndexBy(l.info.ID, func(w *bufio.Writer) (snapshot.Digest, error) { return pack.WriteIndex(w, ix) })
	if err != nil {
		return err
	}
	if err := s.saveTree(ctx, l.info.ID, ix.Manifest, m); err != nil {
		return err
	}
	return s.savedPacked(ctx, l, e, index, indexBytes)
}

// savedPacked writes the row of a layer all of whose files are there.
func (s *Store) savedPacked(ctx context.Context, l *layer, e *encoded, index snapshot.Digest, indexBytes int64) error {
	ix := e.ix
	fail.Point("store.pack.written")
	s.addBlob(index, s.indexPath(index), indexBytes)
	err := s.commitPacked(ctx, l, ix, e.tree, func(in *Info) error {
		if in.State != Sealed {
			return fmt.Errorf("snapshot %s became %s meanwhile", in.ID, in.State)
		}
		in.State, in.Err = Packed, ""
		in.WireBase = e.base
		in.Manifest, in.Index, in.IndexBytes = ix.Manifest, index, indexBytes
		in.PlainBytes, in.StoredBytes = e.stats.Plain, e.stats.Stored+indexBytes
		in.weigh(ix)
		in.TreeBytes, in.Entries = e.sum.bytes, e.sum.entries
		in.EncodeMS = e.stats.Elapsed.Seconds() * 1000
		in.DiskBytes = e.own + in.StoredBytes
		return nil
	})
	if err != nil {
		return err
	}
	s.longs.forget(l.info.ID)
	s.tell()
	return nil
}

// saveTree keeps a hashed tree and checks that it can be read back.
func (s *Store) saveTree(ctx context.Context, id snapshot.ID, d snapshot.Digest, m *snapshot.Manifest) error {
	s.named.claim(id, d)
	if err := s.writeManifest(ctx, m, d); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := fileDigestAside(ctx, s.manifestPath(d), "manifest", d); err != nil {
		return err
	}
	quiet.Step(ctx)
	return s.writeSources(id, d, m)
}

func (s *Store) commitPacked(ctx context.Context, l *layer, ix *pack.Index, m *snapshot.Manifest,
	set func(*Info) error,
) error {
	err := s.change(ctx, l, edit{
		set:  set,
		more: func(ctx context.Context, tx *txn) error { return insertPacks(ctx, tx, l.info.ID, ix.Packs) },
		show: func() {
			l.packs, l.unsized = ix.Packs, false
			if m != nil {
				s.trees.put(l.info.ID, m, len(m.Entries))
			} else {
				s.trees.drop(l.info.ID) // that one is not hashed
			}
			for _, p := range ix.Packs {
				if p.Own {
					s.have[p.Digest] = blobFile{path: s.packPath(p.Digest), bytes: p.Bytes}
				}
			}
		},
	})
	if err == nil {
		fail.Point("store.pack.row")
	}
	return err
}

// ownBytes is what the layer's own files hold.
func (s *Store) ownBytes(place *view.Layer, ix *pack.Index) int64 {
	var n int64
	for i := range ix.Changes {
		e := &ix.Changes[i].Entry
		if src, ok := s.rel(e.Source); ok && strings.HasPrefix(src, place.Dir+"/") && e.FirstLink() {
			n += e.Size
		}
	}
	return n
}

// packFailed sorts the reasons: what can't ever be packed is broken or suspect,
// the rest is tried again.
func (s *Store) packFailed(ctx context.Context, l *layer, err error) {
	var unsupported *snapshot.UnsupportedError
	var corrupt *snapshot.CorruptError
	switch {
	case errors.As(err, &unsupported):
		s.longs.forget(l.info.ID)
		if err := s.endUse(ctx, l, Broken, unsupported); err != nil {
			s.log.Error("can't note that a layer is broken", "snapshot", l.info.ID, "error", err)
		}
	case errors.As(err, &corrupt):
		s.longs.forget(l.info.ID)
		s.fallen(ctx, l, err)
	default:
		s.log.Warn("a layer can't be packed now", "snapshot", l.info.ID, "error", err)
		s.mu.Lock()
		l.info.Err = err.Error() // passes: not worth a row
		s.announceLocked(l)
		s.mu.Unlock()
		s.tell()
	}
}
