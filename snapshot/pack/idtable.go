package pack

import (
	"hash/maphash"

	"github.com/roost-ci/roost/snapshot"
)

// idTable finds things of a list by their ids. It holds places in the list instead
// of ids, so it takes 5 to 11 bytes for each where a map takes 60. The list may grow
// at its end.
type idTable struct {
	id    func(i int) *snapshot.Digest // of the i-th thing
	seed  maphash.Seed                 // ids may come from somebody who wants them to collide
	slots []uint32                     // 1 + place; 0: nothing
	n     int
}

// newIDTable makes a table with room for n things, of which none is in it.
func newIDTable(n int, id func(i int) *snapshot.Digest) idTable {
	size := 16
	for size*3/4 < n {
		size *= 2
	}
	return idTable{id: id, seed: maphash.MakeSeed(), slots: make([]uint32, size)}
}

// find returns the place of the thing with an id.
func (t *idTable) find(id *snapshot.Digest) (int, bool) {
	at := t.slots[t.slot(id)]
	return int(at) - 1, at > 0
}

// slot returns where an id is, or where it would be put.
func (t *idTable) slot(id *snapshot.Digest) int {
	mask := len(t.slots) - 1
	for i := int(maphash.Bytes(t.seed, id[:])) & mask; ; i = (i + 1) & mask {
		if at := t.slots[i]; at == 0 || *t.id(int(at) - 1) == *id {
			return i
		}
	}
}

// add puts in the i-th thing. It reports whether nothing with its id was there.
func (t *idTable) add(i int) bool {
	if t.n >= len(t.slots)*3/4 {
		old := t.slots
		t.slots = make([]uint32, 2*len(old))
		for _, at := range old {
			if at > 0 {
				t.slots[t.slot(t.id(int(at)-1))] = at
			}
		}
	}
	s := &t.slots[t.slot(t.id(i))]
	if *s > 0 {
		return false
	}
	*s = uint32(i + 1)
	t.n++
	return true
}

// tableOf makes the table of a list of chunks.
func tableOf(chunks []ChunkRef) idTable {
	t := newIDTable(len(chunks), func(i int) *snapshot.Digest { return &chunks[i].ID })
	for i := range chunks {
		t.add(i)
	}
	return t
}
