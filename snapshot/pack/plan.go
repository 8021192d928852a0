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
	ix   *Index
	uses [][]use // by frame
}

// use is a chunk that is needed.
type use struct {
	chunk  int // index into Index.Chunks
	places []place
}

// place is where a chunk goes.
type place struct {
	change int
	off    int64
}

func planExtract(ix *Index) (*extractPlan, error) {
	p := &extractPlan{ix: ix, uses: make([][]use, len(ix.Frames))}
	chunks := make(map[snapshot.Digest]int, len(ix.Chunks))
	for i := range ix.Chunks {
		chunks[ix.Chunks[i].ID] = i
	}
	places := make([][]place, len(ix.Chunks))
	linked := map[string]bool{}
	for i := range ix.Changes {
		e := &ix.Changes[i].Entry
		if ix.Changes[i].Delete || e.Type != snapshot.TypeFile {
			continue
		}
		if err := checkContent(e); err != nil {
			return nil, fmt.Errorf("%q: %w", e.Path, err)
		}
		if e.Link != "" {
			if linked[e.Link] {
				continue
			}
			linked[e.Link] = true
		}
		for _, c := range e.Chunks {
			at, ok := chunks[c.ID]
			if !ok || int64(ix.Chunks[at].Len) != c.Len {
				return nil, &snapshot.CorruptError{What: indexWhat, Name: e.Path, Why: fmt.Sprintf("chunk %s of %d bytes is in no frame", c.ID, c.Len)}
			}
			places[at] = append(places[at], place{i, c.Off})
		}
	}
	for i, pl := range places {
		if len(pl) > 0 {
			f := ix.Chunks[i].Frame
			p.uses[f] = append(p.uses[f], use{i, pl})
		}
	}
	return p, nil
}

// countPlaces counts what is to be written of each change; nil if it is not wanted.
func (p *extractPlan) countPlaces(wanted bool) []atomic.Int32 {
	if !wanted {
		return nil
	}
	left := make([]atomic.Int32, len(p.ix.Changes))
	for _, uses := range p.uses {
		for _, u := range uses {
			for _, at := range u.places {
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
