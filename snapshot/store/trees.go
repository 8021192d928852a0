package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Tree returns the exact tree of a snapshot, with the Source of every file. It is
// shared: callers must not change it. Until the snapshot is packed, what its job
// wrote is not hashed. A tree is computed from its base's and the layer's own
// directory, kept in memory while it is used, and read from manifests/ once packed.
func (s *Store) Tree(ctx context.Context, id snapshot.ID) (*snapshot.Manifest, error) {
	s.mu.Lock()
	l, err := s.usableLocked(id)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	b, m := s.startTree(ctx, l)
	if m != nil {
		return s.relocate(ctx, id, m), nil
	}
	select {
	case <-b.done:
		if b.err != nil {
			return nil, b.err
		}
		return s.relocate(ctx, id, b.m), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// startTree returns l's tree if it is in memory, else what builds it. It runs
// under the store's life, since several may wait for it, and stands aside if ctx does:
// no seal waits for the tree of a layer that is stacked.
func (s *Store) startTree(ctx context.Context, l *layer) (*building, *snapshot.Manifest) {
	id := l.info.ID
	m, b, mine := s.trees.enter(id)
	if m != nil {
		return nil, m
	}
	if !mine {
		return b, nil
	}
	life := s.life
	if stacked(l.place()) {
		life = quiet.Like(life, ctx)
	}
	if !s.spawn(func() {
		defer s.trees.leave(id, b)
		if b.m, b.err = s.buildTree(life, l); b.err != nil {
			b.err = fmt.Errorf("tree of %s: %w", id, b.err)
		}
	}) {
		b.err = errClosed
		s.trees.leave(id, b)
	}
	return b, nil
}

// spawn runs fn in the background, and reports whether the store is still open.
func (s *Store) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.background.Go(fn)
	return true
}

func (s *Store) buildTree(ctx context.Context, l *layer) (*snapshot.Manifest, error) {
	s.mu.Lock()
	in, gathered := l.info, l.place().Gathered
	s.mu.Unlock()
	var m *snapshot.Manifest
	var err error
	if in.Index.IsZero() {
		m, err = s.treeFromLayer(ctx, l)
	} else {
		m, err = s.loadTree(ctx, l, &in)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.info.Index != in.Index || l.removing || l.place().Gathered != gathered {
		return m, nil // packed meanwhile: the packer has put the hashed tree there
	}
	l.info.TreeBytes, l.info.Entries, l.unsized = m.Bytes(), int64(len(m.Entries)), false
	s.trees.put(in.ID, m, len(m.Entries))
	return m, nil
}

// treeFromLayer computes the tree of a layer by looking at its directory.
func (s *Store) treeFromLayer(ctx context.Context, l *layer) (*snapshot.Manifest, error) {
	if l.place().Gathered {
		return s.treeFromMoved(l)
	}
	start, err := s.startingTree(ctx, l)
	if err != nil {
		return nil, err
	}
	changes, err := s.driver.Changes(ctx, l.place(), start)
	if err != nil {
		return nil, err
	}
	return tree.ApplyAside(ctx, start, changes)
}

// startingTree is what the view of l showed when its job began; nil is nothing.
func (s *Store) startingTree(ctx context.Context, l *layer) (*snapshot.Manifest, error) {
	if l.info.Base == "" {
		return nil, nil //nolint:nilnil // nil is the empty tree
	}
	base, err := s.Tree(ctx, l.info.Base)
	if err != nil || !l.fanin {
		return base, err
	}
	fix, err := s.readFanin(l.info.ID).List()
	if err != nil {
		return nil, err
	}
	return tree.Apply(base, fix)
}

// loadTree reads what savePacked wrote. Where the files lie can be found out
// again, so a damaged list of sources is not the end of it.
func (s *Store) loadTree(ctx context.Context, l *layer, in *Info) (*snapshot.Manifest, error) {
	m, err := s.readManifest(in.Manifest)
	if err != nil {
		return nil, err
	}
	if l.stored() {
		return m, nil
	}
	err = s.readSources(in.ID, in.Manifest, m)
	if err == nil {
		return m, nil
	}
	s.log.Warn("the list of sources can't be read, looking for the files", "snapshot", in.ID, "error", err)
	if err := s.findSources(ctx, l, m); err != nil {
		return nil, err
	}
	return m, s.writeSources(in.ID, in.Manifest, m)
}

// findSources computes where the files of m, the tree of l, are.
func (s *Store) findSources(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	if l.place().Gathered {
		for i := range m.Entries { // the damaged list may have filled some of it
			m.Entries[i].Source, m.Entries[i].SourceAt = "", 0
		}
		err := s.readSourcesFrom(s.movedPath(l.info.ID), l.info.Manifest, m)
		s.relocateIn(ctx, l.info.ID, m, func() {})
		return err
	}
	var found *snapshot.Manifest
	if l.imported {
		ix, err := s.readIndex(l.info.Index)
		if err != nil {
			return err
		}
		start, err := s.startingTree(ctx, l)
		if err != nil {
			return err
		}
		changes := ix.Changes
		if l.info.WireBase != l.info.Base {
			changes = tree.Diff(start, m) // unpacked as a whole
		}
		s.driver.Locate(l.place(), changes)
		if found, err = tree.Apply(start, changes); err != nil {
			return err
		}
	} else {
		var err error
		if found, err = s.treeFromLayer(ctx, l); err != nil {
			return err
		}
	}
	if len(found.Entries) != len(m.Entries) {
		return &snapshot.CorruptError{
			What: "layer", Name: string(l.info.ID),
			Why: fmt.Sprintf("has %d entries, its manifest %d", len(found.Entries), len(m.Entries)),
		}
	}
	for i := range m.Entries {
		if m.Entries[i].Path != found.Entries[i].Path {
			return &snapshot.CorruptError{
				What: "layer", Name: string(l.info.ID),
				Why: fmt.Sprintf("has %q where its manifest has %q", found.Entries[i].Path, m.Entries[i].Path),
			}
		}
		m.Entries[i].Source, m.Entries[i].SourceAt = found.Entries[i].Source, found.Entries[i].SourceAt
	}
	s.relocateIn(ctx, l.info.ID, m, func() {})
	return nil
}

func (s *Store) manifestPath(d snapshot.Digest) string {
	return filepath.Join(s.dir, "manifests", d.String())
}

func (s *Store) packPath(d snapshot.Digest) string {
	return filepath.Join(s.dir, "packs", d.String())
}

func (s *Store) indexPath(d snapshot.Digest) string {
	return filepath.Join(s.dir, "indexes", d.String())
}

// readManifest reads a manifest and checks that it is the one asked for.
func (s *Store) readManifest(d snapshot.Digest) (*snapshot.Manifest, error) {
	f, err := os.Open(s.manifestPath(d))
	if err != nil {
		return nil, lost("manifest", d, err)
	}
	defer f.Close()
	m, got, err := pack.ReadManifest(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	if got != d {
		return nil, &snapshot.CorruptError{What: "manifest", Name: d.String(), Why: "its digest is " + got.String()}
	}
	return m, nil
}

// writeManifest makes manifests/<digest>, unless it is there.
func (s *Store) writeManifest(ctx context.Context, m *snapshot.Manifest, want snapshot.Digest) error {
	if absent, err := isAbsent(s.manifestPath(want)); err != nil || !absent {
		return err
	}
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	got, err := pack.WriteManifest(quiet.Writer(ctx, w), m)
	if err != nil {
		return err
	}
	if got != want {
		return &snapshot.CorruptError{What: "manifest", Name: want.String(), Why: "it was written as " + got.String()}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Commit(s.manifestPath(want))
}

// lost says that a file that a row names is gone.
func lost(what string, d snapshot.Digest, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &snapshot.CorruptError{What: what, Name: d.String(), Why: "the file is gone"}
	}
	return err
}
