package pack

import (
	"fmt"
	"sync/atomic"

	"github.com/roost-ci/roost/snapshot"
)

// Ranges. Bytes that nobody needs are fetched if there are fewer of them than a
// request is worth; and a range ends at some point, so that several fetchers share
// one large pack.
const (
	maxGap   = 64 << 10
	maxRange = 4 << 20
)

// extractPlan says what is needed of each frame.
type extractPlan struct {
	ix     *Index
	places []place // those of one chunk stand together
	uses   [][]use // by frame
}

// use is a chunk that is needed.
type use struct {
	chunk int // index into Index.Chunks
	at, n int32
}

// place is where a chunk goes.
type place struct {
	off    int64
	change int32
}

// of returns where a chunk goes.
func (p *extractPlan) of(u use) []place { return p.places[u.at:][:u.n] }

// planExtract plans by the table of the chunks.
func planExtract(ix *Index, ids idTable) (*extractPlan, error) {
	var refs []int32                        // which chunk each of a file's chunks is, in order
	behind := make([]int32, len(ix.Chunks)) // how often each is there; then, where its places go on
	err := eachContent(ix, func(_ int, e *snapshot.Entry) error {
		if err := checkContent(e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		for i := range e.Chunks {
			c := &e.Chunks[i]
			at, ok := ids.find(&c.ID)
			if !ok || int64(ix.Chunks[at].Len) != c.Len {
				return inNoFrame(e.Path, c)
			}
			refs = append(refs, int32(at))
			behind[at]++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p := &extractPlan{ix: ix, places: make([]place, len(refs))}
	p.group(behind)
	return p, eachContent(ix, func(i int, e *snapshot.Entry) error {
		for _, c := range e.Chunks {
			at := &behind[refs[0]]
			p.places[*at] = place{c.Off, int32(i)}
			*at, refs = *at+1, refs[1:]
		}
		return nil
	})
}

// group makes the lists of what is needed of each frame. Of each chunk it takes how
// many places it has, and leaves where they begin.
func (p *extractPlan) group(count []int32) {
	perFrame, all := make([]int32, len(p.ix.Frames)), 0
	for i, n := range count {
		if n > 0 {
			perFrame[p.ix.Chunks[i].Frame]++
			all++
		}
	}
	p.uses = make([][]use, len(p.ix.Frames))
	room := make([]use, all)
	for f, n := range perFrame {
		p.uses[f], room = room[:0:n], room[n:]
	}
	at := int32(0)
	for i, n := range count {
		if n > 0 {
			f := p.ix.Chunks[i].Frame
			p.uses[f] = append(p.uses[f], use{i, at, n})
		}
		count[i] = at
		at += n
	}
}

// eachContent calls f for each file of the changes, of several names for the first.
func eachContent(ix *Index, f func(i int, e *snapshot.Entry) error) error {
	linked := map[string]bool{}
	for i := range ix.Changes {
		e := &ix.Changes[i].Entry
		if ix.Changes[i].Delete || e.Type != snapshot.TypeFile {
			continue
		}
		if e.Link != "" {
			if linked[e.Link] {
				continue
			}
			linked[e.Link] = true
		}
		if err := f(i, e); err != nil {
			return err
		}
	}
	return nil
}

// countPlaces counts what is to be written of each change; nil if it is not wanted.
func (p *extractPlan) countPlaces(wanted bool) []atomic.Int32 {
	if !wanted {
		return nil
	}
	left := make([]atomic.Int32, len(p.ix.Changes))
	for _, uses := range p.uses {
		for _, u := range uses {
			for _, at := range p.of(u) {
				left[at.change].Add(1)
			}
		}
	}
	return left
}

// span is a part of a pack that is fetched as one.
type span struct {
	off, end int64
	frames   []int // that lie in it and are needed, ascending
}

// ranges groups the frames that are needed. Frames are sorted by pack and offset.
func (p *extractPlan) ranges() []span {
	var list []span
	for i, u := range p.uses {
		if len(u) == 0 {
			continue
		}
		f := &p.ix.Frames[i]
		end := f.Off + int64(f.Stored)
		if n := len(list) - 1; n >= 0 {
			last := &list[n]
			if p.ix.Frames[last.frames[0]].Pack == f.Pack && f.Off-last.end <= maxGap && end-last.off <= maxRange {
				last.end, last.frames = end, append(last.frames, i)
				continue
			}
		}
		list = append(list, span{off: f.Off, end: end, frames: []int{i}})
	}
	return list
}
