package tree

import (
	"errors"

	"github.com/roost-ci/roost/snapshot"
)

// Parent is one job whose tree is merged.
type Parent struct {
	Job  string // its name, for prefer and for conflicts
	Tree *snapshot.Manifest
}

// Prefer says which job wins a conflict at a path that matches Glob.
type Prefer struct {
	Glob string `json:"glob"`
	Job  string `json:"job"`
}

// MergeOptions is the policy of a fan-in. Globs are doublestar globs of paths
// relative to the root of the tree; one that matches a directory, or ends in /**,
// means everything below it.
type MergeOptions struct {
	// Order settles what Prefer does not: of those who disagree, the first in the
	// order of parents wins.
	Order bool
	// Prefer is asked first. The first glob that matches and names a parent wins.
	Prefer []Prefer
	// Atomic are subtrees that are taken whole from one parent, besides those that
	// are recognised by what is in them.
	Atomic []string
	// Caches are content-addressed stores: the same path in several parents is
	// never a conflict, the first parent wins.
	Caches []string
	// Same compares the content of two files of equal size that are not both
	// hashed. It is called only for paths that several parents changed. Nil: such
	// files are taken to differ.
	Same func(a, b *snapshot.Entry) (bool, error)
	// Read returns the content of a small file (of .git: HEAD, a ref, packed-refs)
	// that has no Source. Nil: it can't be read, and a .git that depends on it is a
	// conflict.
	Read func(e *snapshot.Entry) ([]byte, error)
}

// Merged is the outcome of a merge.
type Merged struct {
	Tree *snapshot.Manifest
	// MTimeDivergence counts the files that several parents made alike but for
	// their times; the first parent's time was taken.
	MTimeDivergence int
}

// Merge merges parents, in the order of the job's needs, against base, the tree
// that all of them started from (nil: nothing). A fan-in that the policy does not
// decide is a *snapshot.ConflictError with all its conflicts.
func Merge(base *snapshot.Manifest, parents []Parent, o MergeOptions) (*Merged, error) {
	return nil, errors.ErrUnsupported
}
