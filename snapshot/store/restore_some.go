package store

import (
	"fmt"
	"io/fs"

	"github.com/roost-ci/roost/snapshot"
)

// selection is what a restore writes of a tree: some paths with all that is below them,
// and the directories that lead there.
type selection struct {
	paths []string
	met   []bool            // which of them there are
	first map[string]string // of hard links: the Link of all to the first name that is written
	totals
}

func newSelection(paths []string) *selection {
	return &selection{paths: paths, met: make([]bool, len(paths)), first: map[string]string{}}
}

// take reports whether e is written, and makes it a first name if the first one of all
// is not.
func (o *selection) take(e *snapshot.Entry) bool {
	in, leads := false, false
	for i, p := range o.paths {
		switch {
		case e.Path == p:
			in, o.met[i] = true, true
		case isBelow(e.Path, p):
			in = true
		case e.Type == snapshot.TypeDir && isBelow(p, e.Path):
			leads = true
		}
	}
	if !in && !leads {
		return false
	}
	if e.Link != "" {
		if _, ok := o.first[e.Link]; !ok {
			o.first[e.Link] = e.Path
		}
		e.Link = o.first[e.Link]
	}
	o.add(e)
	return true
}

// missed says which path there is not.
func (o *selection) missed() error {
	for i, ok := range o.met {
		if !ok {
			return &NoPathError{Path: o.paths[i]}
		}
	}
	return nil
}

// NoPathError says that a snapshot has nothing at a path. It is an fs.ErrNotExist.
type NoPathError struct{ Path string }

func (e *NoPathError) Error() string { return fmt.Sprintf("the snapshot has no %q", e.Path) }

// Unwrap makes it an fs.ErrNotExist.
func (e *NoPathError) Unwrap() error { return fs.ErrNotExist }
