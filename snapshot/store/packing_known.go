package store

import (
	"context"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// previous finds what a base (nil: nothing) has at a path, so that of large files
// only what changed is new.
func previous(base *snapshot.Manifest) func(string) *snapshot.Entry {
	if base == nil {
		return nil
	}
	return func(path string) *snapshot.Entry {
		e, _ := base.Find(path)
		return e
	}
}

// fillKnown gives files that the layer has from others (a merge, a renamed
// directory) the chunks that are known there, so that they are not read again.
func (s *Store) fillKnown(ctx context.Context, l *layer, changes []snapshot.Change) error {
	for i := range changes {
		e := &changes[i].Entry
		if changes[i].Delete || e.Hashed() || e.Source == "" {
			continue
		}
		owner, path := s.ownerOf(l, e.Source)
		if owner == "" {
			continue
		}
		m, err := s.Tree(ctx, owner)
		if err != nil {
			return err
		}
		if o, ok := m.Find(path); ok && o.Source == e.Source && o.SourceAt == e.SourceAt && o.Size == e.Size && o.Hashed() {
			e.Chunks = o.Chunks
		}
	}
	return nil
}

// fillingKnown does so for the whole tree of l, of which none is in memory.
func (s *Store) fillingKnown(ctx context.Context, l *layer, t view.Tree) view.Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		owners := map[snapshot.ID]*movedFiles{}
		defer func() {
			for _, f := range owners {
				f.close()
			}
		}()
		return t(func(e *snapshot.Entry) error {
			if e.Hashed() || e.Source == "" {
				return fn(e)
			}
			id, path := s.ownerOf(l, e.Source)
			if id == "" {
				return fn(e)
			}
			f := owners[id]
			if f == nil {
				s.mu.Lock()
				owner := s.layers[id]
				s.mu.Unlock()
				if owner == nil {
					return missing("not held", id)
				}
				f = s.newMovedFiles(ctx, owner)
				owners[id] = f
			}
			if o, ok := f.find(path); ok && o.Source == e.Source && o.SourceAt == e.SourceAt && o.Size == e.Size && o.Hashed() {
				e.Chunks = o.Chunks
			}
			return fn(e)
		})
	}
}

// ownerOf returns the packed layer in whose directory source lies, and the path
// that it has there, if it is not l itself.
func (s *Store) ownerOf(l *layer, source string) (snapshot.ID, string) {
	src, ok := s.rel(source)
	if !ok || strings.HasPrefix(src, l.place().Dir+"/") {
		return "", ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, o := range s.layers {
		if path, ok := strings.CutPrefix(src, o.place().Dir+"/"); ok && !o.info.Index.IsZero() && o.info.State.Usable() {
			return id, path
		}
	}
	return "", ""
}

// known returns where chunks are that the layer need not bring: in the packs of
// its ancestors of the same domain, the nearest first.
func (s *Store) known(l *layer) (func(snapshot.Digest) (pack.Location, bool), error) {
	var places []*pack.Places
	for _, a := range s.ancestors(l) {
		m, ok := s.located.get(a.ID)
		if !ok {
			ix, err := s.readTables(a.Index)
			if err != nil {
				// A snapshot is packed in full rather than on a doubtful ancestor.
				s.log.Warn("an ancestor's index can't be read, its chunks are stored again", "snapshot", a.ID, "error", err)
				continue
			}
			m = pack.PlacesOf(ix)
			if m.Len() <= s.o.CacheEntries { // else what is read next needs the room
				s.located.put(a.ID, m, m.Len())
			}
		}
		places = append(places, m)
	}
	return func(d snapshot.Digest) (pack.Location, bool) {
		for _, m := range places {
			if loc, ok := m.Find(d); ok {
				return loc, true
			}
		}
		return pack.Location{}, false
	}, nil
}

// ancestors lists the packed ancestors of l that are held, breadth first.
func (s *Store) ancestors(l *layer) []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Info
	seen := map[snapshot.ID]bool{"": true, l.info.ID: true}
	todo := append([]snapshot.ID{l.info.Base}, l.info.Parents...)
	for len(todo) > 0 {
		id := todo[0]
		todo = todo[1:]
		o, ok := s.layers[id]
		if seen[id] || !ok {
			continue
		}
		seen[id] = true
		if !o.info.Index.IsZero() && string(o.key) == string(l.key) {
			out = append(out, o.info)
		}
		todo = append(append(todo, o.info.Base), o.info.Parents...)
	}
	return out
}
