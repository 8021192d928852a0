package store

import (
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// burdenShare: of a pack of another line at least one part in so many must be of
// use. Else that part is stored again: for a licence text that two trees have in
// common nobody should have to keep, and to push, packs of 8 MiB.
const burdenShare = 8

// unburdened returns options by which the changes of ix are stored without the packs
// in burden.
func unburdened(o pack.EncoderOptions, ix *pack.Index, burden map[snapshot.Digest]bool) pack.EncoderOptions {
	mine, known := pack.PlacesOf(ix), o.Known
	o.Seen = nil
	o.Known = func(d snapshot.Digest) (pack.Location, bool) {
		loc, ok := mine.Find(d)
		if !ok {
			loc, ok = known(d)
		}
		if burden[loc.Pack.Digest] {
			return pack.Location{}, false
		}
		return loc, ok
	}
	return o
}

// burdens lists the packs that are neither e's own nor its base's, and of which it
// uses little.
func (c *creating) burdens(ix *pack.Index) map[snapshot.Digest]bool {
	line := map[snapshot.Digest]bool{}
	if c.base != nil {
		if chain, err := c.s.wireChain(c.spec.Base); err == nil {
			c.s.mu.Lock()
			for _, in := range chain {
				if l := c.s.layers[in.ID]; l != nil {
					for _, p := range l.packs {
						line[p.Digest] = true
					}
				}
			}
			c.s.mu.Unlock()
		}
	}
	used := make([]int64, len(ix.Packs))
	for i := range ix.Chunks {
		used[ix.Frames[ix.Chunks[i].Frame].Pack] += int64(ix.Chunks[i].Len)
	}
	out := map[snapshot.Digest]bool{}
	for i, p := range ix.Packs {
		if !p.Own && !line[p.Digest] && used[i] < p.Bytes/burdenShare {
			out[p.Digest] = true
		}
	}
	return out
}
