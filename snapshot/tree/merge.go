package tree

import (
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// Parent is one job whose tree is merged.
type Parent struct {
	Job  string // its name, for prefer and for conflicts
	Tree Tree
}

// Prefer says which job wins a conflict at a path that Glob covers.
type Prefer struct {
	Glob string `json:"glob"`
	Job  string `json:"job"`
}

// MergeOptions is the policy of a fan-in. Globs are doublestar globs of paths
// relative to the root of the tree; one that matches a directory stands for
// everything in it.
type MergeOptions struct {
	// Order settles what Prefer does not: of those who disagree, the first in the
	// order of parents wins.
	Order bool
	// Prefer is asked first. The first glob that covers the path and names a
	// parent wins.
	Prefer []Prefer
	// Atomic are subtrees that are taken whole from one parent, besides those that
	// are recognised by what is in them.
	Atomic []string
	// Caches are content-addressed stores: the same path in several parents is
	// never a conflict, the first parent that has it wins. Go build caches are
	// recognised.
	Caches []string
	// Folds says that the merged tree is for a file system that takes Name and name for the
	// same: two such names from different parents are a conflict, whatever Order and Prefer
	// say.
	Folds bool
	// Same compares the content of two files of equal size where their chunks don't
	// tell: they are not both hashed, or are cut at different places. It is called
	// only for paths that several parents changed. Nil: such files are taken to
	// differ.
	Same func(a, b *snapshot.Entry) (bool, error)
	// Read returns the content of a small file (of .git: HEAD, a ref, packed-refs)
	// whose Source can't be read. Nil: a .git that depends on it is a conflict.
	Read func(e *snapshot.Entry) ([]byte, error)
	// Notes is empty, and has room for what differs. Nil: for little.
	Notes Notes
}

// Merged is the outcome of a merge: how the merged tree differs from those of the
// parents.
type Merged struct {
	Entries int
	Bytes   int64 // as Manifest.Bytes
	// Changed counts the changes of each parent's tree.
	Changed []int
	// MTimeDivergence counts the files that several parents made alike but for
	// their times; the first parent's time was taken. Directories and caches are
	// not counted.
	MTimeDivergence int

	out outcome
}

// Merge merges parents, in the order of the job's needs, against base, the tree
// that all of them started from (nil: nothing). A fan-in that the policy does not
// decide is a *snapshot.ConflictError with all its conflicts, sorted by path.
// Trees are valid; they are read once, or, where much differs, two to four times. What is in
// memory is what differs below a .git or a directory that is none everywhere, and little of
// hard links and of what else differs. One parent alone is the result.
//
// The rules, for each path and against base:
//
//   - What one parent changed is taken; what several changed alike is taken from
//     the first. A change of nothing but the time counts only where nobody made a
//     real one. Directories never conflict by their time.
//   - What one deleted and another changed is a conflict, and so is a new name in
//     a directory that another deleted. It is named once, at its topmost path.
//   - A directory that one made something else, while another changed or added
//     anything in it, is a conflict at the directory.
//   - An atomic subtree is taken whole from the one parent that changed it.
//   - A .git is taken whole from the first parent that changed it, if all that did
//     have the same commit checked out. No parent's own config and hooks, and no
//     *.lock, are carried over.
//   - Hard links that a parent made or cut are made or cut in the result.
//   - Two names that a file system which folds takes for the same are a conflict if the
//     tree is for one, looked for when there is no other.
func Merge(base Tree, parents []Parent, o MergeOptions) (*Merged, error) {
	m, err := newMerger(parents, o)
	if err != nil {
		return nil, err
	}
	return m.merge(base, parents)
}

// merger is a Merge under way: one sweep over all trees at once, in the order of
// paths, with a stack of the directories that the current path lies in. Tree 0 is
// the base, the parents follow from 1 in their order.
type merger struct {
	o      MergeOptions
	jobs   []string // jobs[0] is ""
	prefer []rule
	atomic []glob
	caches []glob
	marks  marks
	heavy  map[string]*weighed

	batch [][]snapshot.Entry // of each tree what may be looked at
	rest  [][]snapshot.Entry // what is still to come of that
	cur   []*snapshot.Entry  // each tree's entry at the current path, or nil
	stack []frame

	out     *snapshot.Entry // what the result has at the current path, or nil
	made    snapshot.Entry
	linked  bool // out may have a Link in the end
	links   mergedLinks
	entries int
	bytes   int64 // all names of hard links counted

	outcome   outcome
	room      []byte // for a note
	conflicts []snapshot.Conflict
	diverged  int

	keep, most int  // keepItems, batchItems
	all        bool // also what is the same everywhere takes part, for tests
}

// rule is a Prefer whose job is a parent.
type rule struct {
	glob   glob
	parent int
}

func newMerger(parents []Parent, o MergeOptions) (*merger, error) {
	if len(parents) == 0 {
		return nil, errors.New("merge of no trees")
	}
	n := len(parents)
	m := &merger{
		o: o, jobs: []string{""}, keep: keepItems, most: batchItems,
		rest: make([][]snapshot.Entry, n+1), cur: make([]*snapshot.Entry, n+1),
		outcome: outcome{notes: o.Notes, parents: n, later: map[int]verdict{}},
	}
	if o.Notes == nil {
		m.outcome.notes = &noteList{}
	}
	all := frame{how: merging}
	for i, p := range parents {
		if p.Tree == nil {
			return nil, fmt.Errorf("merge: %w", noRoot(p.Job))
		}
		m.jobs = append(m.jobs, p.Job)
		all.live = append(all.live, i+1)
	}
	m.stack = []frame{all}
	var err error
	if m.atomic, err = newGlobs("atomic", o.Atomic); err != nil {
		return nil, err
	}
	if m.caches, err = newGlobs("caches", o.Caches); err != nil {
		return nil, err
	}
	for _, p := range o.Prefer {
		g, err := newGlob(p.Glob)
		if err != nil {
			return nil, fmt.Errorf("prefer: %w", err)
		}
		for i, job := range m.jobs {
			if i > 0 && job == p.Job {
				m.prefer = append(m.prefer, rule{g, i})
			}
		}
	}
	return m, nil
}

func noRoot(job string) error { return fmt.Errorf("the tree of job %q has no root", job) }

func (m *merger) merge(base Tree, parents []Parent) (*Merged, error) {
	if base == nil {
		base = Of(nil)
	}
	trees := []Tree{base}
	for _, p := range parents {
		trees = append(trees, p.Tree)
	}
	if err := m.readAll(trees); err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	if len(m.conflicts) > 0 {
		return nil, &snapshot.ConflictError{Conflicts: m.conflicts}
	}
	m.links.settle()
	m.links.verdicts(&m.outcome)
	if m.o.Folds {
		switch found, err := m.outcome.alike(m.jobs); {
		case err != nil:
			return nil, fmt.Errorf("merge: %w", err)
		case len(found) > 0:
			return nil, &snapshot.ConflictError{Conflicts: found}
		}
	}
	out := &Merged{Entries: m.entries, Bytes: m.bytes - m.links.again(), MTimeDivergence: m.diverged, out: m.outcome}
	return out, out.count()
}

// readAll reads the trees and merges them. The first time that they are read it is found
// out what lies in them, and what differs is kept if it is not much. Else they are read again:
// how they compare at large atomic directories, if there are any, and to merge them.
func (m *merger) readAll(trees []Tree) error {
	k := newMarking()
	first := newSieve(trees)
	first.all = m.all
	defer first.stop()
	err := first.run(func(p string) error {
		k.note(p, first.cur)
		return nil
	}, m.keep, func() error {
		first.shut, first.batch = true, nil
		return nil
	})
	if err != nil {
		return err
	}
	for i, job := range m.jobs {
		if i > 0 && (first.rooted == nil || !first.rooted[i]) {
			return noRoot(job)
		}
	}
	m.marks = k.marks
	if len(trees) == 2 {
		return m.alone(trees[1])
	}
	if !first.shut {
		return m.end(first)
	}
	first.stop()
	atomic := func(dir string) bool { return m.marks.atomic[dir] || anyMatch(m.atomic, dir) }
	if err := m.weigh(trees, atomic); err != nil {
		return err
	}
	second := newSieve(trees)
	second.all = m.all
	defer second.stop()
	second.atomic = func(dir string) bool { return m.heavy[dir] == nil && atomic(dir) }
	if err := second.run(nil, m.most, func() error { return m.run(second.batch) }); err != nil {
		return err
	}
	return m.end(second)
}

// end merges the last batch.
func (m *merger) end(s *sieve) error {
	m.entries, m.bytes = m.entries+s.entries, m.bytes+s.bytes
	return m.run(s.batch)
}

// alone is the merge of one tree.
func (m *merger) alone(t Tree) error {
	return t(func(e *snapshot.Entry) error {
		m.entries++
		if e.FirstLink() {
			m.bytes += e.Size
		}
		return nil
	})
}
