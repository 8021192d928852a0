package tree

import (
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// Parent is one job whose tree is merged.
type Parent struct {
	Job  string // its name, for prefer and for conflicts
	Tree *snapshot.Manifest
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
	// Same compares the content of two files of equal size where their chunks don't
	// tell: they are not both hashed, or are cut at different places. It is called
	// only for paths that several parents changed. Nil: such files are taken to
	// differ.
	Same func(a, b *snapshot.Entry) (bool, error)
	// Read returns the content of a small file (of .git: HEAD, a ref, packed-refs)
	// whose Source can't be read. Nil: a .git that depends on it is a conflict.
	Read func(e *snapshot.Entry) ([]byte, error)
}

// Merged is the outcome of a merge.
type Merged struct {
	Tree *snapshot.Manifest
	// MTimeDivergence counts the files that several parents made alike but for
	// their times; the first parent's time was taken. Directories and caches are
	// not counted.
	MTimeDivergence int
}

// Merge merges parents, in the order of the job's needs, against base, the tree
// that all of them started from (nil: nothing). A fan-in that the policy does not
// decide is a *snapshot.ConflictError with all its conflicts, sorted by path.
// Trees are valid manifests and are left as they are; the result shares their
// chunks and attributes. One parent alone is the result.
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
func Merge(base *snapshot.Manifest, parents []Parent, o MergeOptions) (*Merged, error) {
	m, err := newMerger(base, parents, o)
	if err == nil && len(parents) == 1 {
		return &Merged{Tree: parents[0].Tree}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := m.run(); err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	if len(m.conflicts) > 0 {
		return nil, &snapshot.ConflictError{Conflicts: m.conflicts}
	}
	m.links.settle(m.out)
	return &Merged{Tree: &snapshot.Manifest{Entries: m.out}, MTimeDivergence: m.diverged}, nil
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

	trees []*snapshot.Manifest
	rest  [][]snapshot.Entry // what is still to come of each tree
	cur   []*snapshot.Entry  // each tree's entry at the current path, or nil
	stack []frame

	out       []snapshot.Entry
	links     mergedLinks
	conflicts []snapshot.Conflict
	diverged  int
}

// rule is a Prefer whose job is a parent.
type rule struct {
	glob   glob
	parent int
}

func newMerger(base *snapshot.Manifest, parents []Parent, o MergeOptions) (*merger, error) {
	if len(parents) == 0 {
		return nil, errors.New("merge of no trees")
	}
	m := &merger{o: o, jobs: []string{""}, trees: []*snapshot.Manifest{base}}
	most := 0
	for _, p := range parents {
		if p.Tree == nil || len(p.Tree.Entries) == 0 {
			return nil, fmt.Errorf("merge: the tree of job %q has no root", p.Job)
		}
		m.jobs = append(m.jobs, p.Job)
		m.trees = append(m.trees, p.Tree)
		most = max(most, len(p.Tree.Entries))
	}
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
	m.marks = findMarks(m.trees)
	for _, t := range m.trees {
		m.rest = append(m.rest, entries(t))
	}
	m.cur = make([]*snapshot.Entry, len(m.trees))
	m.out = make([]snapshot.Entry, 0, most+most/8)
	return m, nil
}
