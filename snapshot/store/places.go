package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

var errSources = errors.New("sources: bad contents")

// place is a directory or a bundle that has the content of many entries.
type place struct {
	path   string // relative to the store
	bundle bool
	end    int64 // of the content that was looked at last in a bundle
}

// sourceRun is entries of one place that stand together.
type sourceRun struct {
	count  uint64
	ref    uint64
	source string  // for explicit
	gaps   []int64 // of a bundle
}

// explicit is the ref of a run whose source is written out.
const explicit = math.MaxUint64

// sourceList gathers the runs of a tree.
type sourceList struct {
	places []place
	refs   map[place]uint64 // without end
	runs   []sourceRun
	last   uint64 // ref of the bundle of the last entry that has one
}

func (l *sourceList) ref(p place) uint64 {
	if l.refs[p] == 0 {
		l.places = append(l.places, p)
		l.refs[p] = uint64(len(l.places))
	}
	return l.refs[p]
}

// bundle is ref of a bundle. Neighbours lie in the same one.
func (l *sourceList) bundle(path string) uint64 {
	if l.last == 0 || l.places[l.last-1].path != path {
		l.last = l.ref(place{path: path, bundle: true})
	}
	return l.last
}

// add appends an entry whose source is src, relative to the store, "" for none.
func (l *sourceList) add(e *snapshot.Entry, src string) {
	r := sourceRun{count: 1}
	dir, plain := strings.CutSuffix(src, e.Path)
	dir, slash := strings.CutSuffix(dir, "/")
	var gap []int64
	var one [1]int64
	switch {
	case src == "":
	case e.SourceAt > 0:
		r.ref = l.bundle(src)
		p := &l.places[r.ref-1]
		one[0] = e.SourceAt - p.end
		gap = one[:]
		p.end = e.SourceAt + e.Size
	case plain && slash:
		r.ref = l.ref(place{path: dir})
	default:
		r.ref, r.source = explicit, src
	}
	if n := len(l.runs); n > 0 && r.ref != explicit && l.runs[n-1].ref == r.ref {
		l.runs[n-1].count++
		l.runs[n-1].gaps = append(l.runs[n-1].gaps, gap...)
		return
	}
	r.gaps = slices.Clone(gap)
	l.runs = append(l.runs, r)
}

func (l *sourceList) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(l.places)))
	for _, p := range l.places {
		kind := uint64(0)
		if p.bundle {
			kind = 1
		}
		b = appendString(binary.AppendUvarint(b, kind), p.path)
	}
	for _, r := range l.runs {
		b = binary.AppendUvarint(b, r.count)
		if r.ref == explicit {
			b = appendString(binary.AppendUvarint(b, uint64(len(l.places))+1), r.source)
			continue
		}
		b = binary.AppendUvarint(b, r.ref)
		for _, g := range r.gaps {
			b = binary.AppendVarint(b, g)
		}
	}
	return b
}

func (s *Store) encodeSources(d snapshot.Digest, m *snapshot.Manifest) ([]byte, error) {
	return s.encodeSourcesOf(d, view.TreeOf(m))
}

// encodeBeside is encodeSources beside what else is done; what it returns waits for it.
// m is not to change meanwhile.
func (s *Store) encodeBeside(d snapshot.Digest, m *snapshot.Manifest) func() ([]byte, error) {
	var b []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		b, err = s.encodeSources(d, m)
	}()
	return func() ([]byte, error) {
		<-done
		return b, err
	}
}

func (s *Store) encodeSourcesOf(d snapshot.Digest, t view.Tree) ([]byte, error) {
	l := sourceList{refs: map[place]uint64{}}
	err := t(func(e *snapshot.Entry) error {
		src := ""
		if e.Source != "" {
			var ok bool
			if src, ok = s.rel(e.Source); !ok {
				return fmt.Errorf("%q lies outside of the store", e.Source)
			}
		}
		l.add(e, src)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l.append(append([]byte(srcMagic), d[:]...)), nil
}

// decodeSources fills in the Source of m's entries.
func (s *Store) decodeSources(b []byte, d snapshot.Digest, m *snapshot.Manifest) error {
	r, err := s.newSourceReader(b, d)
	if err != nil {
		return err
	}
	for i := range m.Entries {
		if err := r.next(&m.Entries[i]); err != nil {
			return err
		}
	}
	return r.end()
}

// sourceReader reads what append wrote, entry by entry.
type sourceReader struct {
	dir    string // of the store
	c      reader
	places []place
	left   uint64 // of a run
	ref    uint64
}

func (s *Store) newSourceReader(b []byte, d snapshot.Digest) (*sourceReader, error) {
	if len(b) < len(d) || !bytes.Equal(b[:len(d)], d[:]) {
		return nil, fmt.Errorf("%w: of another manifest", errSources)
	}
	r := &sourceReader{dir: s.dir, c: reader{b: b[len(d):]}}
	n := r.c.number()
	if n > uint64(len(r.c.b)) {
		return nil, errSources
	}
	r.places = make([]place, n)
	for i := range r.places {
		kind := r.c.number()
		r.places[i] = place{path: s.dir + "/" + r.c.text(), bundle: kind == 1}
		r.c.bad = r.c.bad || kind > 1
	}
	if r.c.bad {
		return nil, errSources
	}
	return r, nil
}

// next fills in the Source of the next entry.
func (r *sourceReader) next(e *snapshot.Entry) error {
	n := uint64(len(r.places))
	if r.left == 0 {
		r.left, r.ref = r.c.number(), r.c.number()
		if r.c.bad || r.left == 0 || r.ref > n+1 || (r.ref == n+1 && r.left != 1) {
			return errSources
		}
	}
	r.left--
	switch {
	case r.ref == n+1:
		e.Source = r.dir + "/" + r.c.text()
	case r.ref > 0:
		r.c.bad = r.c.bad || !r.places[r.ref-1].give(e, &r.c)
	}
	if r.c.bad {
		return errSources
	}
	return nil
}

// end checks that there is nothing left.
func (r *sourceReader) end() error {
	if r.left > 0 || len(r.c.b) > 0 {
		return errSources
	}
	return nil
}

// give fills in the source of an entry; a false one is not as it was written.
func (p *place) give(e *snapshot.Entry, c *reader) bool {
	if !p.bundle {
		e.Source = p.path + "/" + e.Path
		return true
	}
	at := p.end + c.signed()
	if at <= 0 || e.Size < 0 || at > math.MaxInt64-e.Size {
		return false
	}
	e.Source, e.SourceAt, p.end = p.path, at, at+e.Size
	return true
}
