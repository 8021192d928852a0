package store

import (
	"bytes"
	"context"
	"fmt"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// importedLayer is the layer that b becomes, but for its place.
func (s *Store) importedLayer(b *brought) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	spec := &b.spec
	l := &layer{
		seq: s.nextSeq, boot: s.o.BootID, key: bytes.Clone(spec.DomainKey), imported: true,
		packs: b.ix.Packs, info: Info{
			ID: spec.ID, Base: spec.Base, WireBase: spec.Base, Parents: spec.Parents, State: Durable, Synced: !spec.Later,
			Manifest: spec.Manifest, Index: spec.Index, IndexBytes: spec.IndexBytes, StoredBytes: spec.IndexBytes,
		},
	}
	s.nextSeq++
	for _, p := range b.ix.Packs {
		if p.Own {
			l.info.StoredBytes += p.Bytes
		}
	}
	l.info.weigh(b.ix)
	return l
}

// keepAside writes index and manifest of a layer, which don't depend on where its
// content is.
func (s *Store) keepAside(ctx context.Context, b *brought) error {
	if b.file == nil {
		if err := s.writeFolded(b); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	s.named.claim(b.spec.ID, b.spec.Index, b.spec.Manifest)
	if err := b.file.Commit(s.indexPath(b.spec.Index)); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if err := s.writeManifest(ctx, b.tree, b.spec.Manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return fileDigest(s.manifestPath(b.spec.Manifest), "manifest", b.spec.Manifest)
}

// keepImported writes where a layer's files are, whose tree is m, then the row.
func (s *Store) keepImported(ctx context.Context, l *layer, b *brought, place *view.Layer, m *snapshot.Manifest) error {
	in := &l.info
	l.at.Store(place)
	if b.sources == nil {
		b.sources = s.encodeBeside(in.Manifest, m)
	}
	src, err := b.sources()
	if err == nil {
		err = writeSummed(s.srcPath(in.ID), src)
	}
	if err != nil {
		return fmt.Errorf("sources of %s: %w", in.ID, err)
	}
	fail.Point("store.import.written")
	in.TreeBytes, in.Entries = m.Bytes(), int64(len(m.Entries))
	in.PlainBytes = s.ownBytes(l.place(), b.ix)
	return s.commitImported(ctx, l, m)
}

// commitImported writes the row of a layer, whose files are all there, and shows it. m
// is its tree, if that is in memory.
func (s *Store) commitImported(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	in := &l.info
	in.DiskBytes = in.PlainBytes + in.IndexBytes
	err := s.commit(ctx, func(ctx context.Context, tx *txn) error { return s.insertLayer(ctx, tx, l) })
	if err != nil {
		return err
	}
	fail.Point("store.import.row")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[in.ID] = l
	s.touchLocked(in.ID)
	s.have[in.Index] = blobFile{path: s.indexPath(in.Index), bytes: in.IndexBytes}
	if m != nil {
		s.trees.put(in.ID, m, len(m.Entries))
	}
	s.announceLocked(l)
	return nil
}
