package store

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// A snapshot on a base is made like one without, but that the base's manifest is read
// beside the list of what there is, both in their order: neither tree is ever in memory.

// noCtime is that of an entry whose content is not read.
const noCtime = -1

// based is what a Create on a base knows of that.
type based struct {
	anew    bool // the index is to be against nothing
	touched map[string]bool
	large   map[string]*snapshot.Entry // what was met at the paths of large files
	ctimes  []int64                    // of all changes
	kept    int64                      // files that are as they were
	plain   int64                      // of what they have
}

// compared is one entry of the list beside the base, or a path that only the base has.
type compared struct {
	ch   snapshot.Change
	at   int  // in the list
	same bool // as the base has it
	kept bool // a file that nobody has written to
}

// compare calls fn for each change, and for what did not change, in the order of a
// manifest. Changes are as tree.Diff lists them, but for groups of hard links, which are
// whole once it is known which of them are touched.
func (w *whole) compare(ctx context.Context, fn func(c *compared) error) error {
	t, err := w.s.openTree(ctx, w.base)
	if err != nil {
		return err
	}
	defer t.close()
	b := beside{t: t}
	if w.baseStamps.len() == t.left() {
		b.stamps = w.baseStamps
	}
	if err := b.step(); err != nil {
		return err
	}
	return b.compare(w.list.Each, func(c *compared) { w.meet(&b, c) }, fn)
}

// meet compares c with what the base has at its path.
func (w *whole) meet(b *beside, c *compared) {
	e := &c.ch.Entry
	if e.Type == snapshot.TypeFile && b.e.Type == snapshot.TypeFile {
		is := (&stamps{devs: w.stamps.devs, records: w.stamps.records}).at(c.at)
		if b.stamps != nil && b.e.Chunks != nil && b.e.Size == e.Size && b.e.MTime == e.MTime {
			was := b.stamps.at(b.at)
			c.kept = was.CTime != 0 && was.CTime == is.CTime && was.Ino == is.Ino && was.Dev == is.Dev
		}
		if c.kept {
			e.Chunks = b.e.Chunks
		} else if e.Size >= pack.LargeBytes {
			old := b.e
			w.on.large[e.Path] = &old
		}
	}
	c.same = b.e.Equal(e) && (e.Link == "" || !w.on.touched[e.Link])
}

// findTouched looks which groups of hard links have a name that changed.
func (w *whole) findTouched(ctx context.Context) error {
	return w.compare(ctx, func(c *compared) error {
		if e := &c.ch.Entry; !c.same && e.Link != "" {
			w.on.touched[e.Link] = true
		}
		return nil
	})
}

// previous is that of a large file.
func (w *whole) previous(path string) *snapshot.Entry { return w.on.large[path] }

// addBased stores what differs from the base, and writes the manifest.
func (w *whole) addBased(ctx context.Context, st *pack.Stream) error {
	if len(w.firsts) > 0 {
		if err := w.findTouched(ctx); err != nil {
			return err
		}
	}
	err := w.compare(ctx, func(c *compared) error {
		e, ctime := &c.ch.Entry, int64(noCtime)
		switch {
		case c.ch.Delete && w.on.anew:
			return nil
		case c.kept:
			w.on.kept++
			if e.FirstLink() {
				w.spec.Progress.Done.Add(e.Size)
				for i := range e.Chunks {
					w.on.plain += e.Chunks[i].Len
				}
			}
		case !c.ch.Delete:
			ctime = w.stamps.ctime(c.at)
		}
		if c.same && !w.on.anew {
			return w.put(ctx, st, nil, e, noCtime)
		}
		w.on.ctimes = append(w.on.ctimes, ctime)
		return w.put(ctx, st, &c.ch, nil, ctime)
	})
	return w.end(ctx, st, err)
}

// beside is the base's tree on its way.
type beside struct {
	t      entries
	stamps *stamps // nil: nothing is known
	e      snapshot.Entry
	at     int // of e
	next   int // how many were read
	more   bool
}

// step goes to the base's next entry.
func (b *beside) step() error {
	err := b.t.next(&b.e)
	if errors.Is(err, io.EOF) {
		b.more = false
		return nil
	}
	b.at, b.more = b.next, true
	b.next++
	return err
}

// over goes on behind all that is below the base's entry.
func (b *beside) over() error {
	for dir := b.e.Path; ; {
		if err := b.step(); err != nil || !b.more || !isBelow(b.e.Path, dir) {
			return err
		}
	}
}

// pass goes on behind the base's entry, in whose place there is one of type t.
func (b *beside) pass(t snapshot.Type) error {
	if b.e.Type == snapshot.TypeDir && t != snapshot.TypeDir {
		return b.over()
	}
	return b.step()
}

// before calls fn with what only the base has before path.
func (b *beside) before(path string, fn func(c *compared) error) error {
	for b.more && snapshot.ComparePaths(b.e.Path, path) < 0 {
		if err := b.gone(fn); err != nil {
			return err
		}
	}
	return nil
}

// rest calls fn with what only the base has behind all others.
func (b *beside) rest(fn func(c *compared) error) error {
	for b.more {
		if err := b.gone(fn); err != nil {
			return err
		}
	}
	return nil
}

func (b *beside) gone(fn func(c *compared) error) error {
	c := compared{ch: snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: b.e.Path}}}
	if err := b.over(); err != nil {
		return err
	}
	return fn(&c)
}

// compare calls fn for each entry of list, in the order of a manifest, and for what only
// the base has, but not for what was below that. meet is told before of what has a
// counterpart in the base, which is b.e then.
func (b *beside) compare(list view.Tree, meet func(c *compared), fn func(c *compared) error) error {
	at := 0
	err := list(func(e *snapshot.Entry) error {
		if err := b.before(e.Path, fn); err != nil {
			return err
		}
		c := compared{ch: snapshot.Change{Entry: *e}, at: at}
		at++
		if b.more && b.e.Path == e.Path {
			meet(&c)
			if err := b.pass(e.Type); err != nil {
				return err
			}
		}
		return fn(&c)
	})
	if err != nil {
		return err
	}
	return b.rest(fn)
}

// isBelow reports whether path lies strictly below dir.
func isBelow(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (dir == "" && rest != "" || strings.HasPrefix(rest, "/"))
}
