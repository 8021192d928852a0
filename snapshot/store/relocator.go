package store

import (
	"context"
	"errors"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// relocator puts the places where files are now into entries that name old ones. Of a
// large layer to which files have moved no tree is in memory, as long as the entries
// come about in the order of that.
type relocator struct {
	ctx      context.Context
	s        *Store
	gathered map[string]*layer
	moved    map[*layer]*movedFiles
}

// newRelocator is nil if no file has moved but those of the layer id, which stay where
// they are said to be.
func (s *Store) newRelocator(ctx context.Context, id snapshot.ID) *relocator {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r *relocator
	for dir, l := range s.gathering.gathered {
		if l.info.ID == id {
			continue
		}
		if r == nil {
			r = &relocator{ctx: ctx, s: s, gathered: map[string]*layer{}, moved: map[*layer]*movedFiles{}}
		}
		r.gathered[dir] = l
	}
	return r
}

func (r *relocator) close() {
	for _, f := range r.moved {
		f.close()
	}
}

// relocate puts the new place into e, and what is known of the file's content, and
// reports whether there is one.
func (r *relocator) relocate(e *snapshot.Entry) bool {
	if e.Type != snapshot.TypeFile || e.SourceAt != 0 || e.Source == "" || e.Size == 0 {
		return false
	}
	dir, rest := r.s.upperOf(e.Source)
	l := r.gathered[dir]
	if l == nil {
		return false
	}
	f := r.moved[l]
	if f == nil {
		f = r.s.newMovedFiles(r.ctx, l)
		r.moved[l] = f
	}
	now, ok := f.find(rest)
	if !ok || now.Size != e.Size || now.SourceAt == 0 && (e.Hashed() || now.Source != e.Source) {
		return false
	}
	e.Source, e.SourceAt = now.Source, now.SourceAt
	if !e.Hashed() {
		e.Chunks = now.Chunks
	}
	return true
}

// movedFiles finds entries of a gathered layer: in its tree, or, of a large one that is
// not in memory, in its manifest, which is read on as long as what is asked for ascends.
type movedFiles struct {
	ctx  context.Context
	s    *Store
	l    *layer
	m    *snapshot.Manifest // what memory has; nil: it is read, if t is not nil
	t    *treeFile
	e    snapshot.Entry
	prev string // the path before that of e
	more bool   // there is an e
	from int    // how often it was begun
}

// mostBegins is how often a manifest is read from its begin before all of it is kept.
const mostBegins = 8

func (s *Store) newMovedFiles(ctx context.Context, l *layer) *movedFiles {
	f := &movedFiles{ctx: ctx, s: s, l: l}
	if _, ok := s.trees.get(l.info.ID); !ok && s.isLarge("", int(l.info.Entries)) && f.begin() {
		return f
	}
	f.all()
	return f
}

// all has the whole tree in memory.
func (f *movedFiles) all() {
	f.close()
	f.m = f.s.movedTree(f.ctx, f.l)
}

// begin reads from the first entry on.
func (f *movedFiles) begin() bool {
	f.close()
	f.from++
	t, err := f.s.openLocated(f.ctx, f.l, false)
	if err != nil {
		return false
	}
	f.t = t
	return f.step()
}

func (f *movedFiles) step() bool {
	f.prev = f.e.Path
	err := f.t.next(&f.e)
	f.more = err == nil
	return err == nil || errors.Is(err, io.EOF)
}

func (f *movedFiles) close() {
	if f.t != nil {
		f.t.close()
		f.t = nil
	}
}

// find returns the entry at path, which is good until the next one is asked for.
func (f *movedFiles) find(path string) (*snapshot.Entry, bool) {
	for f.t != nil {
		var good bool
		switch c := f.compare(path); {
		case c == 0:
			return &f.e, true
		case c > 0:
			good = f.step()
		case path > "" && snapshot.ComparePaths(path, f.prev) > 0:
			return nil, false // it would have been between
		default:
			good = f.from < mostBegins && f.begin()
		}
		if !good {
			f.all()
		}
	}
	if f.m == nil {
		return nil, false
	}
	return f.m.Find(path)
}

// compare says where path is: before, at or behind the entry that is next.
func (f *movedFiles) compare(path string) int {
	if !f.more {
		return -1
	}
	return snapshot.ComparePaths(path, f.e.Path)
}
