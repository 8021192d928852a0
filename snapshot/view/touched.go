package view

import (
	"context"
	"errors"
	"iter"
	"path"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// Entries is a list of entries that takes little memory, in the order of a manifest.
// Sources and chunks need not be kept.
type Entries interface {
	Append(e *snapshot.Entry) error
	Each(fn func(e *snapshot.Entry) error) error
}

// Lister is a driver that tells what a job left without any tree in memory.
type Lister interface {
	// List appends to list what a sealed layer's own directory has, and says what is
	// needed beside. list may not be changed afterwards. Errors are those of Changes.
	List(ctx context.Context, l *Layer, list Entries) (Listed, error)
	// ListsAll reports whether that directory has the whole tree, and not just what the
	// job touched.
	ListsAll() bool
}

// Listed is what a layer has of its own. It may be used by several goroutines.
type Listed interface {
	// Len is about how many entries the job has touched.
	Len() int
	// Over is the tree that the job left: base (nil: nothing) is the tree that its view
	// showed at first. It says what Changes says, applied to base. Of a driver whose
	// layers are whole trees the Sum does not depend on base.
	Over(ctx context.Context, base Tree) (Tree, Sum, error)
}

// Touched is what a job left in its upper directory.
type Touched struct {
	list    Entries
	n       int
	prefix  string           // of every source
	notes   map[int]note     // of few items, by their place
	far     map[string]bool  // what redirects lead to in the base: true is a directory
	farMost int              // Options
	mu      sync.Mutex       // guards all below
	long    map[string]bool  // of far: directories that have very much in them; nil: not known yet
	names   map[group]string // the first name of each file that has several; nil: not known yet
	sum     Sum
}

// Sum is how large a tree is.
type Sum struct {
	Entries int
	Bytes   int64 // as Manifest.Bytes
}

// Len implements Listed.
func (t *Touched) Len() int { return t.n }

// origins follows an upper and holds on what the directories above the last item stand,
// if they stand on anything.
type origins struct{ at, on []string }

// enter returns on what the next item stands.
func (o *origins) enter(it *upperItem) string {
	p := it.entry.Path
	if p == "" {
		o.at, o.on = append(o.at, ""), append(o.on, "")
		return ""
	}
	n := len(o.at)
	for n > 0 && !under(p, o.at[n-1]) {
		n--
	}
	o.at, o.on = o.at[:n], o.on[:n]
	origin := ""
	if n > 0 {
		origin = o.on[n-1]
	}
	on, _ := below(it.marks, path.Base(p), origin, true)
	if it.entry.Type == snapshot.TypeDir {
		o.at, o.on = append(o.at, p), append(o.on, on)
	}
	return on
}

// Over implements Listed.
func (t *Touched) Over(ctx context.Context, base Tree) (Tree, Sum, error) {
	if base == nil {
		base = func(func(*snapshot.Entry) error) error { return nil }
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	far, err := t.farLocked(base)
	if err != nil {
		return nil, Sum{}, err
	}
	if t.names == nil {
		if err := t.nameLocked(ctx, base, far); err != nil {
			return nil, Sum{}, err
		}
	}
	names := t.names
	return func(fn func(e *snapshot.Entry) error) error {
		return t.lay(ctx, base, far, func(e *snapshot.Entry, g group) error {
			e.Link = names[g]
			return fn(e)
		})
	}, t.sum, nil
}

// naming is a file with several names in one of the trees.
type naming struct {
	first string
	more  bool
}

// nameLocked finds out which files have several names, and how large the tree is.
func (t *Touched) nameLocked(ctx context.Context, base Tree, far far) error {
	files, sum := map[group]naming{}, Sum{}
	err := t.lay(ctx, base, far, func(e *snapshot.Entry, g group) error {
		sum.Entries++
		if g == (group{}) {
			sum.Bytes += e.Size
			return nil
		}
		switch f, ok := files[g]; {
		case !ok:
			sum.Bytes += e.Size
			files[g] = naming{first: e.Path}
		case !f.more:
			files[g] = naming{f.first, true}
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.names, t.sum = map[group]string{}, sum
	for g, f := range files {
		if f.more {
			t.names[g] = f.first
		}
	}
	return nil
}

// lay calls put for each entry of the tree. Its Link is what it was in the base.
func (t *Touched) lay(ctx context.Context, base Tree, far far, put func(e *snapshot.Entry, g group) error) error {
	b := pullTree(base)
	defer b.stop()
	items := t.pull()
	defer items.stop()
	n := 0
	y := laying{items: items.itemCursor, base: b.cursor, far: far, put: func(e *snapshot.Entry, g group) error {
		if n%1024 == 0 {
			quiet.Step(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		n++
		return put(e, g)
	}}
	err := b.err
	if err == nil && items.it == nil {
		err = errors.Join(items.err, errors.New("its list is empty"))
	}
	if err == nil {
		err = y.run()
	}
	for _, e := range []error{b.err, items.err} {
		if e != nil {
			err = e // the list has ended by it
		}
	}
	return err
}

// errEnough ends a walk that nobody goes on with.
var errEnough = errors.New("enough")

// treeCursor is a tree, entry by entry.
type treeCursor struct {
	*cursor
	err  error
	stop func()
}

func pullTree(t Tree) *treeCursor {
	c := &treeCursor{cursor: &cursor{}}
	next, stop := iter.Pull(func(yield func(*snapshot.Entry) bool) {
		c.err = t(func(e *snapshot.Entry) error {
			if !yield(e) {
				return errEnough
			}
			return nil
		})
	})
	c.stop = stop
	c.step = func() { c.e, _ = next() }
	c.step()
	return c
}

// listCursor is the list of what was touched.
type listCursor struct {
	*itemCursor
	err  error
	stop func()
}

func (t *Touched) pull() *listCursor {
	c := &listCursor{itemCursor: &itemCursor{}}
	var it upperItem
	next, stop := iter.Pull(func(yield func(*upperItem) bool) {
		at := 0
		c.err = t.list.Each(func(e *snapshot.Entry) error {
			it.entry, it.note = *e, t.notes[at]
			if it.entry.Type == snapshot.TypeFile {
				it.entry.Source = t.prefix + e.Path
			}
			at++
			if !yield(&it) {
				return errEnough
			}
			return nil
		})
	})
	c.stop = stop
	c.step = func() { c.it, _ = next() }
	c.step()
	return c
}
