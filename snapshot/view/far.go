package view

import (
	"cmp"
	"errors"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// A directory that was renamed is found where it was in the base, which is read in order
// and may be anywhere else by then. So what was renamed is in memory; but of a directory
// that has very much in it nothing is, and the base is read once more to find that.

// farTimes is how often the base is read once more at most: for the largest ones.
const farTimes = 8

// far is what redirects lead to in a base.
type far struct {
	near *snapshot.Manifest // the base, or at least what redirects lead to
	long map[string]bool    // directories of which near has not what is in them
	base Tree               // of these
}

// find returns what a redirect leads to; nil is nothing.
func (f *far) find(path string) *snapshot.Entry {
	e, _ := f.near.Find(path)
	return e
}

// under is at what lies in a directory that a redirect leads to. done is to be called
// behind it, and says what went wrong with reading it.
func (f *far) under(dir string) (c *cursor, done func() error) {
	if !f.long[dir] {
		return entriesOf(f.near.Under(dir)), func() error { return nil }
	}
	t := pullTree(func(fn func(e *snapshot.Entry) error) error {
		in := false
		return f.base(func(e *snapshot.Entry) error {
			if in && !under(e.Path, dir) {
				return errEnough
			}
			if in = in || under(e.Path, dir); !in {
				return nil
			}
			return fn(e)
		})
	})
	return t.cursor, func() error {
		t.stop()
		if errors.Is(t.err, errEnough) {
			return nil
		}
		return t.err
	}
}

// farLocked takes out of base what redirects lead to.
func (t *Touched) farLocked(base Tree) (far, error) {
	f := far{near: &snapshot.Manifest{}, base: base}
	if len(t.far) == 0 {
		return f, nil
	}
	if t.long == nil {
		if err := t.longLocked(base); err != nil {
			return f, err
		}
	}
	f.long = t.long
	top, in := "", false
	err := base(func(e *snapshot.Entry) error {
		in = in && under(e.Path, top)
		if dir, ok := t.far[e.Path]; ok && !in {
			top, in = e.Path, dir && !f.long[e.Path]
		} else if !ok && !in {
			return nil
		}
		f.near.Entries = append(f.near.Entries, *e)
		return nil
	})
	return f, err
}

// longLocked finds the directories that have too much in them.
func (t *Touched) longLocked(base Tree) error {
	sizes := map[string]int{}
	var in []string // those that the entry lies in, the innermost last
	err := base(func(e *snapshot.Entry) error {
		for len(in) > 0 && !under(e.Path, in[len(in)-1]) {
			in = in[:len(in)-1]
		}
		for _, dir := range in {
			sizes[dir]++
		}
		if t.far[e.Path] {
			in = append(in, e.Path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var long []string
	for dir, n := range sizes {
		if n > t.farMost {
			long = append(long, dir)
		}
	}
	slices.SortFunc(long, func(a, b string) int { return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b)) })
	t.long = map[string]bool{}
	for _, dir := range long[:min(len(long), farTimes)] {
		t.long[dir] = true
	}
	return nil
}
