package store

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"weak"

	"github.com/roost-ci/roost/snapshot"
)

func newGathering() gathering {
	return gathering{
		least: gatherLeast, every: gatherEvery, gathered: map[string]*layer{}, relocated: map[snapshot.ID]relocatedTree{},
		readers: map[int]struct{}{}, graces: map[snapshot.ID]map[string]struct{}{},
	}
}

// movedLocked notes that files of l are in its bundle now.
func (g *gathering) movedLocked(l *layer) {
	g.gathered[l.place().Dir] = l
	g.moves++
}

// forgetLocked forgets a layer that is removed: nothing has files of it.
func (g *gathering) forgetLocked(l *layer) {
	if g.gathered[l.place().Dir] == l {
		delete(g.gathered, l.place().Dir)
	}
	delete(g.relocated, l.info.ID)
	delete(g.graces, l.info.ID)
}

// movedPath is a second copy of a gathered layer's list of sources: its directory
// can't tell any more what the list says.
func (s *Store) movedPath(id snapshot.ID) string {
	return filepath.Join(s.dir, "manifests", string(id)+".moved")
}

// relocate returns the tree of id with the places where its files are now. A tree that
// names none that have moved is returned as it is.
func (s *Store) relocate(ctx context.Context, id snapshot.ID, m *snapshot.Manifest) *snapshot.Manifest {
	s.mu.Lock()
	moves := s.gathering.moves
	done := moves == 0 || s.gathering.relocated[id] == (relocatedTree{weak.Make(m), moves})
	s.mu.Unlock()
	if done {
		return m
	}
	out := &snapshot.Manifest{Entries: m.Entries}
	if !s.relocateIn(ctx, "", out, func() { out.Entries = slices.Clone(m.Entries) }) {
		out = m
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if out != m {
		if now, ok := s.trees.get(id); ok && now == m {
			s.trees.put(id, out, len(out.Entries))
		}
	}
	if s.gathering.moves == moves {
		s.gathering.relocated[id] = relocatedTree{weak.Make(out), moves}
	}
	return out
}

// relocateIn puts the new places into m, and what is known of the files' content,
// after own was called, and reports whether there were any. Files of the layer id stay where they are said to be.
func (s *Store) relocateIn(ctx context.Context, id snapshot.ID, m *snapshot.Manifest, own func()) bool {
	r := s.newRelocator(ctx, id)
	if r == nil {
		return false
	}
	defer r.close()
	any := false
	for i := range m.Entries {
		e := m.Entries[i]
		if !r.relocate(&e) {
			continue
		}
		if !any {
			own()
			any = true
		}
		m.Entries[i] = e
	}
	return any
}

// movedTree is the tree of a gathered layer as its own list has it; nil if it can't
// be had.
func (s *Store) movedTree(ctx context.Context, l *layer) *snapshot.Manifest {
	if m, ok := s.trees.get(l.info.ID); ok {
		return m
	}
	m, err := s.readManifest(l.info.Manifest)
	if err == nil {
		if err = s.readSourcesFrom(s.srcPath(l.info.ID), l.info.Manifest, m); err != nil {
			if m, err = s.readManifest(l.info.Manifest); err == nil {
				err = s.readSourcesFrom(s.movedPath(l.info.ID), l.info.Manifest, m)
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("can't read where the files of a layer are now", "snapshot", l.info.ID, "error", err)
	}
	if err != nil {
		return nil
	}
	return m
}

// upperOf takes a source apart: the directory that a driver has for a layer, and the
// path below that.
func (s *Store) upperOf(source string) (dir, rest string) {
	rel, ok := s.rel(source)
	if !ok {
		return "", ""
	}
	n := 0
	for range 3 {
		i := strings.IndexByte(rel[n:], '/')
		if i < 0 {
			return "", ""
		}
		n += i + 1
	}
	return rel[:n-1], rel[n:]
}

// treeFromMoved is treeFromLayer of a layer that was gathered: as its directory would
// tell it, what it brought is not hashed.
func (s *Store) treeFromMoved(l *layer) (*snapshot.Manifest, error) {
	m, err := s.readManifest(l.info.Manifest)
	if err != nil {
		return nil, err
	}
	if err := s.readSourcesFrom(s.movedPath(l.info.ID), l.info.Manifest, m); err != nil {
		return nil, err
	}
	s.relocateIn(s.life, l.info.ID, m, func() {})
	all := filepath.Join(s.dir, filepath.FromSlash(filepath.Dir(l.place().Dir))) + "/"
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == snapshot.TypeFile && strings.HasPrefix(e.Source, all) {
			e.Chunks = nil
		}
	}
	return m, nil
}
