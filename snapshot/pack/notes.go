package pack

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// Notes is a long list of entries with all that they say, and a few bytes about each, in
// little memory: where content is known by one chunk, some 50 bytes and what is new in its
// name. It is filled in the order of a manifest, then read from the front. The zero Notes
// is empty.
type Notes struct {
	pages pages
	w     entryWriter
	head  string
	one   []byte
}

// What is said of an entry's source, besides SourceAt.
const (
	noSource    = 0
	sourceBelow = 1 << 0 // it is the path of the entry, below a directory
	sourceWhole = 1 << 1 // it is something else
	sourceNew   = 1 << 2 // not what it was for the entry before
	notHashed   = 1 << 3 // Chunks is nil
)

// Append adds an entry, which must stand behind the last one.
func (l *Notes) Append(e *snapshot.Entry, note []byte) (err error) {
	one, kind, head := *e, byte(noSource), l.head
	if one.Chunks == nil {
		kind |= notHashed
		one.Chunks = []snapshot.Chunk{} // not to be missed
	}
	if e.Source != "" {
		var below bool
		if head, below = strings.CutSuffix(e.Source, e.Path); below && e.Path != "" {
			kind |= sourceBelow
		} else {
			head = e.Source
			kind |= sourceWhole
		}
		if head != l.head {
			kind |= sourceNew
		}
	}
	l.w.chunks = idCodec{}
	if l.one, err = l.w.path(l.one[:0], one.Path); err != nil {
		return fmt.Errorf("notes: %w", err)
	}
	if l.one, err = l.w.entry(l.one, &one); err != nil {
		return fmt.Errorf("notes: %w", err)
	}
	l.one = append(l.one, kind)
	if kind&sourceNew != 0 {
		l.one = append(binary.AppendUvarint(l.one, uint64(len(head))), head...)
	}
	l.head = head
	if e.Source != "" {
		l.one = binary.AppendUvarint(l.one, uint64(e.SourceAt))
	}
	l.one = append(binary.AppendUvarint(l.one, uint64(len(note))), note...)
	l.pages.add(l.one)
	return nil
}

// Each calls fn for each entry, from the front. Both are fn's only until it returns; what
// the entry points to may be kept. An error of fn ends it and is returned as it is.
func (l *Notes) Each(fn func(e *snapshot.Entry, note []byte) error) error {
	r, head := entryReader{chunks: idCodec{}}, ""
	for _, p := range l.pages {
		for c := (&cursor{b: p}); c.left() > 0; {
			e := snapshot.Entry{Path: r.path(c)}
			r.entry(c, &e)
			kind := c.byte()
			if kind&notHashed != 0 {
				e.Chunks = nil
			}
			if kind&sourceNew != 0 {
				head = string(c.bytes(int(c.uvarint("length of a source", math.MaxInt32))))
			}
			switch {
			case kind&sourceBelow != 0:
				e.Source = head + e.Path
			case kind&sourceWhole != 0:
				e.Source = head
			}
			if e.Source != "" {
				e.SourceAt = int64(c.uvarint("place in a source", math.MaxInt64))
			}
			note := c.bytes(int(c.uvarint("length of a note", math.MaxInt32)))
			if c.err != nil {
				return fmt.Errorf("notes: %w", c.err)
			}
			if err := fn(&e, note); err != nil {
				return err
			}
		}
	}
	return nil
}

// pages are encoded items, none of which lies in two.
type pages [][]byte

// listPage is the room of a page, but for an item that takes more.
const listPage = 64 << 10

func (p *pages) add(item []byte) {
	at := len(*p) - 1
	if at < 0 || len((*p)[at])+len(item) > cap((*p)[at]) {
		*p = append(*p, make([]byte, 0, max(listPage, len(item))))
		at++
	}
	(*p)[at] = append((*p)[at], item...)
}
