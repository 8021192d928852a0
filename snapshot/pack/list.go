package pack

import (
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// List is a long list of entries that are not hashed yet, in little memory: most take
// some 10 bytes and what is new in their names, where a []snapshot.Entry takes 200. It
// is filled in the order of a manifest, then read from the front. Sources and Chunks
// are not kept. The zero List is empty.
type List struct {
	pages  pages
	n      int
	w      entryWriter
	one    []byte
	firsts []int
}

// Len is the number of entries.
func (l *List) Len() int { return l.n }

// Append adds an entry, which must stand behind the last one.
func (l *List) Append(e *snapshot.Entry) (err error) {
	one := *e
	one.Chunks = []snapshot.Chunk{} // not kept, and so not to be missed
	l.w.chunks = idCodec{}
	if l.one, err = l.w.path(l.one[:0], one.Path); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if l.one, err = l.w.entry(l.one, &one); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	l.pages.add(l.one)
	l.n++
	return nil
}

// SetFirsts makes the entries at these places, ascending, the first names of
// hard-linked files: their Link is their path.
func (l *List) SetFirsts(places []int) { l.firsts = places }

// Each calls fn for each entry, from the front. The entry is fn's only until it
// returns; what it points to may be kept. An error of fn ends it and is returned as it
// is.
func (l *List) Each(fn func(e *snapshot.Entry) error) error {
	r := entryReader{chunks: idCodec{}}
	firsts, i := l.firsts, 0
	for _, p := range l.pages {
		for c := (&cursor{b: p}); c.left() > 0; i++ {
			e := snapshot.Entry{Path: r.path(c)}
			r.entry(c, &e)
			if c.err != nil {
				return fmt.Errorf("list: %w", c.err)
			}
			e.Chunks = nil
			if len(firsts) > 0 && firsts[0] == i {
				e.Link, firsts = e.Path, firsts[1:]
			}
			if err := fn(&e); err != nil {
				return err
			}
		}
	}
	return nil
}
