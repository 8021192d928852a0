package tree

import (
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// What is the same in all trees takes no part in a merge: a merge of two jobs on a tree of
// a million files is one of what they changed. So the trees are read beside each other,
// and what differs somewhere goes on, a batch at a time, with the directories that it lies
// in. The rules look ahead: how a directory is merged depends on what is in it, in any of
// the trees. Where they may, all that differs below is in one batch, unless it was weighed.

const (
	// batchItems is how many entries make a batch, if what lies together is not more.
	batchItems = 4096
	// keepItems is how many entries are kept of the first time that the trees are read,
	// when it is found out what lies in them: if no more differ, that was the only time.
	keepItems = 32 << 10
)

// sieve reads trees in step and lets through what is not the same in all.
type sieve struct {
	trees  []*pages[snapshot.Entry]
	cur    []*snapshot.Entry // each tree's entry at the current path, or nil
	all    bool              // lets everything through
	shut   bool              // lets nothing through any more
	atomic func(dir string) bool

	batch [][]snapshot.Entry // of each tree
	n     int                // entries in batch
	// dirs are the directories that the current path lies in, if they are the same in all
	// and have not been let through.
	dirs  []snapshot.Entry
	whole topmost // what must be in one batch
	git   topmost

	rooted []bool // which trees have a root

	// Of what was not let through:
	entries int
	bytes   int64
}

func newSieve(trees []Tree) *sieve {
	s := &sieve{
		cur: make([]*snapshot.Entry, len(trees)), batch: make([][]snapshot.Entry, len(trees)),
		atomic: func(string) bool { return false },
	}
	for _, t := range trees {
		s.trees = append(s.trees, pull(t))
	}
	return s
}

func (s *sieve) stop() {
	for _, t := range s.trees {
		t.stop()
	}
}

// run calls at for each path, if it is not nil, and full for batches of at least most
// entries; then the last batch, which may be empty, is left.
func (s *sieve) run(at func(p string) error, most int, full func() error) error {
	for _, t := range s.trees {
		if err := t.step(); err != nil {
			return err
		}
	}
	for {
		p, more, err := s.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if s.rooted == nil {
			for _, e := range s.cur {
				s.rooted = append(s.rooted, p == "" && isDir(e))
			}
		}
		if s.n >= most && !s.shut && !s.whole.covers(p) {
			if err := full(); err != nil {
				return err
			}
			s.clear()
		}
		if at != nil {
			if err := at(p); err != nil {
				return err
			}
		}
		if !s.shut {
			s.path(p)
		}
	}
	for i := range s.dirs {
		s.pass(&s.dirs[i])
	}
	return nil
}

// clear empties the batch.
func (s *sieve) clear() {
	s.n = 0
	for i := range s.batch {
		s.batch[i] = s.batch[i][:0]
	}
}

// next moves every tree that has the next path onto it.
func (s *sieve) next() (path string, more bool, err error) {
	for i, t := range s.trees {
		if s.cur[i] != nil {
			if err := t.step(); err != nil {
				return "", false, err
			}
		}
	}
	for i, t := range s.trees {
		s.cur[i] = nil
		if len(t.left) == 0 {
			continue
		}
		e := &t.left[0]
		c := -1
		if more {
			c = comparePaths(e.Path, path)
		}
		if c < 0 {
			clear(s.cur[:i])
			path, more = e.Path, true
		}
		if c <= 0 {
			s.cur[i] = e
		}
	}
	return path, more, nil
}

// path lets the current path through, or does not.
func (s *sieve) path(p string) {
	for n := len(s.dirs); n > 0 && !below(p, s.dirs[n-1].Path); n-- {
		s.pass(&s.dirs[n-1])
		s.dirs = s.dirs[:n-1]
	}
	dir := s.dir()
	if dir {
		s.enter(p)
	}
	if first := s.cur[0]; s.same() && !s.wanted(p) {
		if dir {
			s.dirs = append(s.dirs, *first)
		} else {
			s.pass(first)
		}
		return
	}
	for i := range s.batch {
		s.batch[i] = append(s.batch[i], s.dirs...)
	}
	s.n += len(s.dirs) * len(s.batch)
	s.dirs = s.dirs[:0]
	for i, e := range s.cur {
		if e != nil {
			s.batch[i] = append(s.batch[i], *e)
			s.n++
		}
	}
}

// pass notes that e is not let through.
func (s *sieve) pass(e *snapshot.Entry) {
	s.entries++
	s.bytes += e.Size
}

// dir reports whether some tree has a directory here.
func (s *sieve) dir() bool {
	for _, e := range s.cur {
		if isDir(e) {
			return true
		}
	}
	return false
}

// enter is told of a directory.
func (s *sieve) enter(p string) {
	git := nameOf(p) == ".git"
	torn := false
	for _, e := range s.cur {
		torn = torn || isDir(s.cur[0]) && e != nil && !isDir(e)
	}
	if git || torn || s.atomic(p) {
		s.whole.add(p)
	}
	if git {
		s.git.add(p)
	}
}

// same reports whether all trees have the same here, hard links aside: of these, all
// take part, as groups are matched by their names.
func (s *sieve) same() bool {
	first := s.cur[0]
	if first == nil || first.Link != "" || s.all {
		return false
	}
	for _, e := range s.cur[1:] {
		if e == nil || e.Link != "" || !quickSame(first, e) {
			return false
		}
	}
	return true
}

// wanted reports whether p is looked at by name: in a .git all that is not an object, and
// what is left behind there.
func (s *sieve) wanted(p string) bool {
	if !s.git.covers(p) {
		return false
	}
	rel := p[len(s.git.path)+1:]
	top, _, _ := strings.Cut(rel, "/")
	return top != "objects" && top != "lfs" || strings.HasSuffix(rel, ".lock") || strings.Contains(rel, "/.git/")
}
