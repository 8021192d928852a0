package pack

import (
	"cmp"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// table collects where the chunks of a layer are: in frames that are being made, or
// in frames of known packs.
type table struct {
	known  func(snapshot.Digest) (Location, bool)
	chunks []ChunkRef // Frame >= 0: an own frame; < 0: -1-i is reused[i]
	place  idTable    // of chunks
	reused []Location
	frame  map[frameKey]int // into reused
}

type frameKey struct {
	pack snapshot.Digest
	off  int64
}

// init makes the table ready. It must stay where it is from then on.
func (t *table) init(known func(snapshot.Digest) (Location, bool)) {
	t.known, t.frame = known, map[frameKey]int{}
	t.place = newIDTable(0, func(i int) *snapshot.Digest { return &t.chunks[i].ID })
}

// expect makes room for n chunks; there may be more.
func (t *table) expect(n int) {
	t.chunks = make([]ChunkRef, 0, n)
	t.place = newIDTable(n, t.place.id)
}

// has reports whether the chunk is in the table, or is known and now is in it.
func (t *table) has(id snapshot.Digest, n int64) bool {
	if at, ok := t.place.find(&id); ok {
		return int64(t.chunks[at].Len) == n
	}
	l, ok := t.known(id)
	if !ok || int64(l.Len) != n || !l.sane() {
		return false
	}
	t.reuse(id, l)
	return true
}

// hasPart reports whether a chunk that is not in the table is known as a part of
// another, and now is in it.
func (t *table) hasPart(id snapshot.Digest, n int64, p *partOf) bool {
	l, ok := t.known(p.id)
	if !ok || int64(l.Len) != p.of || !l.sane() {
		return false
	}
	l.Off, l.Len = l.Off+uint32(p.at), uint32(n)
	t.reuse(id, l)
	return true
}

// reuse puts a chunk of a known pack into the table.
func (t *table) reuse(id snapshot.Digest, l Location) {
	key := frameKey{l.Pack.Digest, l.Frame.Off}
	i, ok := t.frame[key]
	if !ok {
		i = len(t.reused)
		t.frame[key] = i
		t.reused = append(t.reused, l)
	}
	t.add(ChunkRef{ID: id, Frame: -1 - i, Off: l.Off, Len: l.Len})
}

func (t *table) add(c ChunkRef) {
	t.chunks = append(t.chunks, c)
	t.place.add(len(t.chunks) - 1)
}

// sane says whether a location can be what it says. What is not is stored anew.
func (l Location) sane() bool {
	l.Frame.Pack = 0
	_, err := checkTables(&Index{
		Packs: []Pack{l.Pack}, Frames: []Frame{l.Frame},
		Chunks: []ChunkRef{{Off: l.Off, Len: l.Len}},
	})
	return err == nil
}

// layout appends the reused packs and frames to ix, in order, and makes the final
// list of chunks.
func (t *table) layout(ix *Index) {
	packs := map[snapshot.Digest]int{}
	for _, l := range t.reused {
		if _, ok := packs[l.Pack.Digest]; !ok {
			packs[l.Pack.Digest] = len(ix.Packs)
			l.Pack.Own = false
			ix.Packs = append(ix.Packs, l.Pack)
		}
	}
	order := make([]int, len(t.reused))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := t.reused[a], t.reused[b]
		return cmp.Or(cmp.Compare(packs[x.Pack.Digest], packs[y.Pack.Digest]), cmp.Compare(x.Frame.Off, y.Frame.Off))
	})
	final := make([]int, len(t.reused))
	for _, i := range order {
		f := t.reused[i].Frame
		f.Pack = packs[t.reused[i].Pack.Digest]
		final[i] = len(ix.Frames)
		ix.Frames = append(ix.Frames, f)
	}
	ix.Chunks = t.chunks
	for i := range ix.Chunks {
		if f := ix.Chunks[i].Frame; f < 0 {
			ix.Chunks[i].Frame = final[-1-f]
		}
	}
}
