package pack

import (
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// Fold makes an index of changes whose content is where indexes say, of which an
// earlier one is asked before a later one. No content is read. Indexes of a chain of
// layers, the newest first, and what all of it changed become one layer by this. A
// pack is the layer's own if it is one index's own. Base and Manifest are not set; what
// the changes need and no index has is a *snapshot.CorruptError.
func Fold(indexes []*Index, changes []snapshot.Change) (*Index, error) {
	places, chunks := make([]idTable, len(indexes)), 0
	own := map[snapshot.Digest]bool{}
	for i, ix := range indexes {
		var err error
		if places[i], err = checkTables(ix); err != nil {
			return nil, fmt.Errorf("fold: %w", err)
		}
		chunks += len(ix.Chunks)
		for _, p := range ix.Packs {
			own[p.Digest] = own[p.Digest] || p.Own
		}
	}
	var t table
	t.init(nil)
	t.expect(min(chunks, len(changes))) // most files have one
	find := func(c *snapshot.Chunk) bool {
		for i, ix := range indexes {
			at, ok := places[i].find(&c.ID)
			if !ok || int64(ix.Chunks[at].Len) != c.Len {
				continue
			}
			ref := &ix.Chunks[at]
			f := ix.Frames[ref.Frame]
			t.reuse(c.ID, Location{Pack: ix.Packs[f.Pack], Frame: f, Off: ref.Off, Len: ref.Len})
			return true
		}
		return false
	}
	for i := range changes {
		e := &changes[i].Entry
		for j := range e.Chunks {
			c := &e.Chunks[j]
			if _, ok := t.place.find(&c.ID); ok {
				continue
			}
			if !find(c) {
				return nil, inNoFrame(e.Path, c)
			}
		}
	}
	out := &Index{Changes: changes}
	t.layout(out)
	for i := range out.Packs {
		out.Packs[i].Own = own[out.Packs[i].Digest]
	}
	return out, nil
}

// inNoFrame says that a file needs a chunk that no index has.
func inNoFrame(path string, c *snapshot.Chunk) error {
	return &snapshot.CorruptError{What: indexWhat, Name: path, Why: fmt.Sprintf("chunk %s of %d bytes is in no frame", c.ID, c.Len)}
}
