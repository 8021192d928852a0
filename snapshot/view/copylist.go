package view

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// A copy is a whole tree, of which the stamps say what is as in the base. Which of its
// files that is takes one bit for each; a file that was renamed is looked up in the base,
// which is read in order, and so is in memory.

// copied is what List tells of a copy. It may be used by several goroutines.
type copied struct {
	list   Entries
	n      int
	files  int // which the job may have made or changed
	sum    Sum
	prefix string  // of every source
	stays  bitset  // of n: files that are as in the base, at their path
	moved  []moved // files that are as at another path of the base, in its order
	firsts []int   // of n, ascending: the first names of files that have several
}

// moved is a file of the base that has another name now.
type moved struct {
	at   int    // in the list
	from string // its path in the base
}

// bitset is a list of yes and no.
type bitset []uint64

// set says yes to i, which is not less than what was said yes to before.
func (b *bitset) set(i int) {
	for len(*b) <= i/64 {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

func (b bitset) has(i int) bool { return i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }

// ListsAll implements Lister.
func (d *Copy) ListsAll() bool { return true }

// List implements Lister.
func (d *Copy) List(ctx context.Context, l *Layer, list Entries) (Listed, error) {
	if err := checkLayer(l); err != nil {
		return nil, err
	}
	c := &copied{list: list, prefix: d.abs(l.Dir) + "/"}
	names := map[inodeKey]*linkedName{}
	err := d.eachCopied(ctx, l, func(it *copiedItem) error {
		e, at := &it.entry, c.n
		c.n++
		if it.linked {
			c.name(names, it, at)
		}
		if e.FirstLink() {
			c.sum.Bytes += e.Size
		}
		switch {
		case it.known && it.from == e.Path:
			c.stays.set(at)
		case it.known:
			c.moved = append(c.moved, moved{at, it.from})
		case e.Type == snapshot.TypeFile:
			c.files++
		}
		return list.Append(e)
	})
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", l.ID, err)
	}
	c.sum.Entries = c.n
	slices.Sort(c.firsts)
	slices.SortFunc(c.moved, func(a, b moved) int {
		return cmp.Or(snapshot.ComparePaths(a.from, b.from), cmp.Compare(a.at, b.at))
	})
	return c, nil
}

// linkedName is the first name of a file that may have more.
type linkedName struct {
	path string
	at   int
	more bool
}

// name gives it, at this place of the list, its Link, if it is not the first name.
func (c *copied) name(names map[inodeKey]*linkedName, it *copiedItem, at int) {
	first, ok := names[it.ino]
	if !ok {
		names[it.ino] = &linkedName{path: it.entry.Path, at: at}
		return
	}
	if !first.more {
		first.more = true
		c.firsts = append(c.firsts, first.at)
	}
	it.entry.Link = first.path
}

// Len implements Listed.
func (c *copied) Len() int { return c.files }

// Over implements Listed. What it says is what Changes says, once that is applied to the
// base: of an entry that is Equal there it is the base's that counts.
func (c *copied) Over(ctx context.Context, base Tree) (Tree, Sum, error) {
	if base == nil {
		base = func(func(*snapshot.Entry) error) error { return nil }
	}
	was, err := c.lookUp(base)
	if err != nil {
		return nil, Sum{}, err
	}
	touched := map[string]bool{} // groups of hard links of which a name changed
	if len(c.firsts) > 0 {
		err := c.beside(ctx, base, was, func(e, b *snapshot.Entry) error {
			if e.Link != "" && (b == nil || !b.Equal(e)) {
				touched[e.Link] = true
			}
			return nil
		})
		if err != nil {
			return nil, Sum{}, err
		}
	}
	return func(fn func(e *snapshot.Entry) error) error {
		return c.beside(ctx, base, was, func(e, b *snapshot.Entry) error {
			if b != nil && b.Equal(e) && !touched[e.Link] {
				e.Source, e.SourceAt, e.Chunks = b.Source, b.SourceAt, b.Chunks
			}
			return fn(e)
		})
	}, c.sum, nil
}

// content is what a base knows of a file.
type content struct {
	at       int // in the list
	size     int64
	source   string
	sourceAt int64
	chunks   []snapshot.Chunk
}

// give has e be a file with this content, if it can be.
func (o *content) give(e *snapshot.Entry) {
	if o.size == e.Size {
		e.Source, e.SourceAt, e.Chunks = o.source, o.sourceAt, o.chunks
	}
}

// lookUp finds what was moved in the base, and returns it in the order of the list.
func (c *copied) lookUp(base Tree) ([]content, error) {
	left := c.moved
	if len(left) == 0 {
		return nil, nil
	}
	out := make([]content, 0, len(left))
	err := base(func(b *snapshot.Entry) error {
		for len(left) > 0 && snapshot.ComparePaths(left[0].from, b.Path) < 0 {
			left = left[1:]
		}
		for ; len(left) > 0 && left[0].from == b.Path; left = left[1:] {
			if b.Type == snapshot.TypeFile {
				out = append(out, content{left[0].at, b.Size, b.Source, b.SourceAt, b.Chunks})
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b content) int { return cmp.Compare(a.at, b.at) })
	return out, err
}

// beside calls fn for each entry, as it is by its stamp, and what the base has at its path;
// nil: nothing.
func (c *copied) beside(ctx context.Context, base Tree, was []content, fn func(e, b *snapshot.Entry) error) error {
	below := pullTree(base)
	defer below.stop()
	err := c.each(func(at int, e *snapshot.Entry) error {
		if at%1024 == 0 {
			quiet.Step(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		for below.e != nil && snapshot.ComparePaths(below.e.Path, e.Path) < 0 {
			below.step()
		}
		if below.err != nil {
			return below.err // there is nothing any more for that reason
		}
		var b *snapshot.Entry
		if below.e != nil && below.e.Path == e.Path {
			b = below.e
		}
		if e.Type == snapshot.TypeFile {
			e.Source = c.prefix + e.Path
			for len(was) > 0 && was[0].at < at {
				was = was[1:]
			}
			switch {
			case c.stays.has(at) && b != nil && b.Type == e.Type:
				o := content{at, b.Size, b.Source, b.SourceAt, b.Chunks}
				o.give(e)
			case len(was) > 0 && was[0].at == at:
				was[0].give(e)
			}
		}
		return fn(e, b)
	})
	for err == nil && below.e != nil { // whether it was all right shows at its end
		below.step()
	}
	if err == nil {
		err = below.err
	}
	return err
}

// each calls fn for each entry of the list and tells its place.
func (c *copied) each(fn func(at int, e *snapshot.Entry) error) error {
	at, firsts := 0, c.firsts
	err := c.list.Each(func(e *snapshot.Entry) error {
		if len(firsts) > 0 && firsts[0] == at {
			e.Link, firsts = e.Path, firsts[1:]
		}
		at++
		return fn(at-1, e)
	})
	if err == nil && at != c.n {
		err = errors.New("its list has another length")
	}
	return err
}
