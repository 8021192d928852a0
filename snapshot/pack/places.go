package pack

import "github.com/roost-ci/roost/snapshot"

// Places says where chunks are, by what indexes say: for EncoderOptions.Known, and for
// Gather. Of an index it keeps all but the changes; a chunk takes some 70 bytes. The
// zero Places knows none.
type Places struct {
	indexes []*Index
	at      []placeAt
	ids     idTable
}

// placeAt is a chunk of one of the indexes.
type placeAt struct{ index, chunk int32 }

// PlacesOf is Index.Locate for many chunks: a map takes three times as much.
func PlacesOf(ix *Index) *Places {
	p := &Places{}
	p.Add(ix, nil)
	return p
}

// Add adds the chunks of an index that are in none of those before, of the packs that
// use picks; nil picks all.
func (p *Places) Add(ix *Index, use func(pack int) bool) {
	if p.ids.slots == nil {
		p.ids = newIDTable(len(ix.Chunks), func(i int) *snapshot.Digest {
			at := p.at[i]
			return &p.indexes[at.index].Chunks[at.chunk].ID
		})
		p.at = make([]placeAt, 0, len(ix.Chunks))
	}
	n := int32(len(p.indexes))
	p.indexes = append(p.indexes, &Index{Packs: ix.Packs, Frames: ix.Frames, Chunks: ix.Chunks})
	for i := range ix.Chunks {
		if use != nil && !use(ix.Frames[ix.Chunks[i].Frame].Pack) {
			continue
		}
		p.at = append(p.at, placeAt{n, int32(i)})
		if !p.ids.add(len(p.at) - 1) {
			p.at = p.at[:len(p.at)-1]
		}
	}
}

// Len is how many chunks there are.
func (p *Places) Len() int { return len(p.at) }

// Find returns where a chunk is.
func (p *Places) Find(id snapshot.Digest) (Location, bool) {
	if p.ids.slots == nil {
		return Location{}, false
	}
	i, ok := p.ids.find(&id)
	if !ok {
		return Location{}, false
	}
	ix := p.indexes[p.at[i].index]
	c := &ix.Chunks[p.at[i].chunk]
	f := ix.Frames[c.Frame]
	return Location{Pack: ix.Packs[f.Pack], Frame: f, Off: c.Off, Len: c.Len}, true
}

// Gather makes an index of changes whose chunks are where find says. No content is
// read. Base and Manifest are not set, no pack is the layer's own; what a change needs
// and nobody has is a *snapshot.CorruptError.
func Gather(find func(snapshot.Digest) (Location, bool), changes []snapshot.Change) (*Index, error) {
	var t table
	t.init(nil)
	for i := range changes {
		e := &changes[i].Entry
		for j := range e.Chunks {
			c := &e.Chunks[j]
			if at, ok := t.place.find(&c.ID); ok && int64(t.chunks[at].Len) == c.Len {
				continue
			}
			l, ok := find(c.ID)
			if !ok || int64(l.Len) != c.Len {
				return nil, inNoFrame(e.Path, c)
			}
			t.reuse(c.ID, l)
		}
	}
	out := &Index{Changes: changes}
	t.layout(out)
	return out, nil
}
