package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// ErrNotPacked says that a layer has no digests yet that it could be compared with.
var ErrNotPacked = errors.New("not packed yet")

// Verify reads all that this host has of a packed layer and compares it with its
// digests: index, manifest, packs, and each file that the layer brought. What is
// damaged makes it suspect, and all that stands on it, and is returned as a
// *snapshot.CorruptError.
func (s *Store) Verify(ctx context.Context, id snapshot.ID) error {
	if err := s.verifyOne(ctx, id, newVerified(nil)); err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}

// verified is what a Verify of several has read.
type verified struct {
	packs map[snapshot.Digest]bool // of layers that are stored only
	p     *Progress
}

func newVerified(p *Progress) *verified {
	if p == nil {
		p = &Progress{}
	}
	return &verified{packs: map[snapshot.Digest]bool{}, p: p}
}

// verifyOne is Verify with a memory of what was read.
func (s *Store) verifyOne(ctx context.Context, id snapshot.ID, v *verified) error {
	defer s.reading()()
	s.mu.Lock()
	l, err := s.usableLocked(id)
	var in Info
	if err == nil {
		in = s.infoLocked(l)
	}
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case in.Index.IsZero():
		return ErrNotPacked
	case l.stored():
		err = s.verifyStored(ctx, l, &in, v)
	default:
		err = s.verify(ctx, l, &in)
	}
	var corrupt *snapshot.CorruptError
	if errors.As(err, &corrupt) {
		s.fallen(ctx, l, err)
	}
	return err
}

// verify is verifyOne of a layer that has files.
func (s *Store) verify(ctx context.Context, l *layer, in *Info) error {
	for _, b := range in.Blobs {
		if b.Digest == in.Index {
			continue
		}
		err := fileDigest(s.packPath(b.Digest), "pack", b.Digest)
		var corrupt *snapshot.CorruptError
		if errors.As(err, &corrupt) && !s.needs(b.Digest) {
			continue // it went to the blob store, and from here, meanwhile
		}
		if err != nil {
			return err
		}
	}
	if s.shownInParts(l, in) {
		return s.verifyInParts(ctx, l, in, func(int64) error { return nil })
	}
	ix, err := s.readIndex(in.Index)
	if err != nil {
		return err
	}
	m, err := s.readManifest(in.Manifest)
	if err != nil {
		return err
	}
	if err := s.readSources(in.ID, in.Manifest, m); err != nil {
		return &snapshot.CorruptError{What: "list of sources", Name: string(in.ID), Why: err.Error()}
	}
	if err := s.verifyNames(ctx, l, m); err != nil {
		return err
	}
	var base *snapshot.Manifest
	changes := ix.Changes
	switch {
	case in.WireBase == in.Base:
	case in.Base == "": // unpacked as a whole, the index has less
		changes = tree.Diff(nil, m)
	default: // the index has all, also what the base brought
		if base, err = s.Tree(ctx, in.Base); err != nil {
			return err
		}
	}
	for i := range changes {
		if sameFile(base, m, changes[i].Entry.Path) {
			continue
		}
		if err := s.verifyFile(ctx, l, m, &changes[i]); err != nil {
			return err
		}
	}
	return s.verifyCopies(ctx, l, m)
}

// verifyCopies reads what a copying driver has a second time: files that did not
// change lie in the layer's directory too, and are what the next view is made of.
func (s *Store) verifyCopies(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	p := l.place()
	if stacked(p) || p.Image != "" {
		return nil
	}
	dir := filepath.Join(s.dir, filepath.FromSlash(p.Dir))
	for i := range m.Entries {
		e := m.Entries[i]
		if e.Type != snapshot.TypeFile || e.Size == 0 || e.Link != "" && e.Link != e.Path {
			continue
		}
		here := filepath.Join(dir, filepath.FromSlash(e.Path))
		if e.Source == here {
			continue // its change was looked at
		}
		e.Source, e.SourceAt = here, 0
		if err := s.verifyContent(ctx, l, &e); err != nil {
			return err
		}
	}
	return nil
}

// sameFile reports whether a path is the very same file in both trees; a nil one
// has none.
func sameFile(base, m *snapshot.Manifest, path string) bool {
	if base == nil {
		return false
	}
	b, ok := base.Find(path)
	if !ok {
		return false
	}
	e, ok := m.Find(path)
	return ok && b.Source != "" && b.Source == e.Source && b.SourceAt == e.SourceAt
}

// needs reports whether a pack must be here.
func (s *Store) needs(d snapshot.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.have[d]
	return ok
}

// verifyNames compares what a view would show now with the manifest, all but what
// is in the files.
func (s *Store) verifyNames(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	find := s.treeFromLayer
	if _, ok := s.driver.(imager); ok {
		find = s.treeFromMount // its directories alone don't say
	}
	found, err := find(ctx, l)
	if err != nil {
		return err
	}
	bare := func(m *snapshot.Manifest) *snapshot.Manifest {
		out := &snapshot.Manifest{Entries: make([]snapshot.Entry, len(m.Entries))}
		copy(out.Entries, m.Entries)
		for i := range out.Entries {
			if e := &out.Entries[i]; e.Type == snapshot.TypeFile {
				e.Chunks, e.Source = []snapshot.Chunk{}, ""
			}
		}
		return out
	}
	if diff := tree.Diff(bare(m), bare(found)); len(diff) > 0 {
		return &snapshot.CorruptError{
			What: "layer", Name: string(l.info.ID),
			Why: fmt.Sprintf("%q is not as it was sealed (and %d more)", diff[0].Entry.Path, len(diff)-1),
		}
	}
	return nil
}

// treeFromMount looks at what a mount of l shows.
func (s *Store) treeFromMount(ctx context.Context, l *layer) (m *snapshot.Manifest, err error) {
	err = s.lookAt(ctx, l, func(dir string) error {
		m, err = tree.Scan(ctx, dir, tree.ScanOptions{Owners: s.o.Owners})
		return err
	})
	return m, err
}

// lookAt calls fn with a directory that shows l.
func (s *Store) lookAt(ctx context.Context, l *layer, fn func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "look-")
	if err != nil {
		return err
	}
	defer os.Remove(dir) //nolint:errcheck // gone with the mount
	c, err := s.driver.Mount(ctx, l.place(), dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return fn(dir)
}

func (s *Store) verifyFile(ctx context.Context, l *layer, m *snapshot.Manifest, c *snapshot.Change) error {
	if c.Delete || c.Entry.Type != snapshot.TypeFile || c.Entry.Size == 0 {
		return nil
	}
	want, ok := m.Find(c.Entry.Path)
	if !ok {
		return lacks(&l.info, c.Entry.Path)
	}
	return s.verifyContent(ctx, l, want)
}

// verifyContent reads a file and compares it with its chunks.
func (s *Store) verifyContent(ctx context.Context, l *layer, want *snapshot.Entry) error {
	got, bare := *want, *want
	got.Chunks, bare.Source = nil, ""
	same, err := pack.Same(ctx, l.key, &got, &bare)
	if err != nil {
		return fmt.Errorf("%q: %w", want.Path, err)
	}
	if !same {
		return &snapshot.CorruptError{What: "file", Name: want.Path, Why: "its content is not what was sealed"}
	}
	return nil
}
