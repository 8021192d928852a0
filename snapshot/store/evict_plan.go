package store

import (
	"cmp"
	"container/heap"
	"math/bits"
	"path"
	"slices"
	"time"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// candidate is a layer in a plan of what to evict.
type candidate struct {
	id     snapshot.ID
	seq    int64
	reason Reason // why it may go; "" if it stays whatever happens
	stays  Reason // why it stays
	by     snapshot.ID
	text   string
	bytes  int64 // freed
	age    int   // doublings of the minutes since its last use
	used   time.Time
	blobs  []Blob       // that must be in the blob store before it goes
	needs  []*candidate // what it stands on
	above  int          // how many layers stand on it
}

// evictPlan hands out candidates in the order in which they may go. It is a
// picture of one moment: Remove has the last word.
type evictPlan struct {
	all   []*candidate
	ready candidates
}

// planEviction takes the picture.
func (s *Store) planEviction(spec EvictSpec) *evictPlan {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	p := &evictPlan{all: make([]*candidate, 0, len(s.layers))}
	byID := make(map[snapshot.ID]*candidate, len(s.layers))
	dirs := make(map[string]*candidate, len(s.layers))
	for id, l := range s.layers {
		c := &candidate{
			id: id, seq: l.seq, bytes: s.freedLocked(l), used: l.last(),
			age: bits.Len64(uint64(max(0, now.Sub(l.last())/time.Minute))),
		}
		c.reason, c.stays = s.mayGoLocked(l, &spec, now)
		if c.reason == EvictDurable || c.reason == EvictDamaged && !givenUp(l, &spec, now) {
			c.blobs = allBlobs(l)
		}
		p.all = append(p.all, c)
		byID[id] = c
		if !l.stored() {
			dirs[path.Dir(l.place().Dir)] = c
		}
	}
	slices.SortFunc(p.all, func(a, b *candidate) int { return cmp.Compare(a.seq, b.seq) })
	for id, l := range s.layers {
		p.link(byID[id], l, byID, dirs)
	}
	s.inUseLocked(byID, dirs)
	for _, c := range p.all {
		if c.reason != "" && c.above == 0 {
			p.ready = append(p.ready, c)
		}
	}
	heap.Init(&p.ready)
	return p
}

// link notes what l stands on: by its tree, and by the directories that show it.
func (p *evictPlan) link(c *candidate, l *layer, byID map[snapshot.ID]*candidate, dirs map[string]*candidate) {
	on := map[*candidate]bool{c: true}
	add := func(o *candidate) {
		if o != nil && !on[o] {
			on[o] = true
			c.needs = append(c.needs, o)
			o.above++
		}
	}
	add(byID[l.info.Base])
	add(byID[l.info.WireBase])
	if l.fanin {
		for _, id := range l.info.Parents {
			add(byID[id])
		}
	}
	for _, o := range ownersOf(l.place(), dirs) {
		add(o)
	}
}

// ownersOf lists the layers in whose directories are files that place shows.
func ownersOf(place *view.Layer, dirs map[string]*candidate) []*candidate {
	var out []*candidate
	for _, list := range [][]string{place.Lowers, place.Data, place.Devices, {place.Image}} {
		for _, d := range list {
			for _, at := range []string{d, path.Dir(d), path.Dir(path.Dir(d))} {
				if o := dirs[at]; o != nil {
					out = append(out, o)
				}
			}
		}
	}
	return out
}

// mayGoLocked judges a layer by itself.
func (s *Store) mayGoLocked(l *layer, spec *EvictSpec, now time.Time) (goes, stays Reason) {
	v, sealed := s.views[l.info.ID]
	switch {
	case l.removing:
		return "", KeptError
	case l.use.pinned:
		return "", KeptPinned
	case sealed && v.sealed:
		return "", KeptReport
	case s.held[l.info.ID] > 0 && l.info.State.Usable():
		return "", KeptHold
	case len(l.mounts) > 0:
		return "", KeptMount
	case s.packing == l.info.ID:
		return "", KeptOnlyCopy
	}
	switch l.info.State {
	case Broken:
		goes = EvictBroken
	case Suspect:
		goes = EvictDamaged
		if l.use.was != Durable && !givenUp(l, spec, now) {
			return "", KeptOnlyCopy
		}
	case Durable:
		goes = EvictDurable
		if !s.chainDurableLocked(l) {
			return "", KeptOnlyCopy
		}
	default:
		return "", KeptOnlyCopy
	}
	if spec.Useless && goes == EvictDurable {
		return "", KeptRecent
	}
	if !spec.Before.IsZero() && !l.last().Before(spec.Before) {
		return "", KeptRecent
	}
	return goes, ""
}

// givenUp reports whether a damaged layer may go although there is no other copy of it.
func givenUp(l *layer, spec *EvictSpec, now time.Time) bool {
	return spec.Damaged || now.Sub(l.last()) >= doubtfulFor
}

// chainDurableLocked reports whether a host without anything could fetch l.
func (s *Store) chainDurableLocked(l *layer) bool {
	for n := 0; n <= len(s.layers); n++ {
		if l.info.State != Durable {
			return false
		}
		if l.info.WireBase == "" {
			return true
		}
		base, ok := s.layers[l.info.WireBase]
		if !ok {
			return false
		}
		l = base
	}
	return false
}

// inUseLocked marks what views, mounts and imports stand on.
func (s *Store) inUseLocked(byID map[snapshot.ID]*candidate, dirs map[string]*candidate) {
	stay := func(c *candidate, by snapshot.ID, why Reason) {
		if c == nil || (c.stays == why && c.by != "" && c.by < by) {
			return
		}
		c.reason, c.stays, c.by = "", why, by
	}
	mark := func(id, by snapshot.ID, why Reason) { stay(byID[id], by, why) }
	for id, l := range s.layers {
		for _, place := range l.mounts {
			for _, c := range ownersOf(place, dirs) {
				stay(c, id, KeptMount)
			}
		}
	}
	for _, v := range s.views {
		if v.sealed {
			continue
		}
		for _, id := range v.stands {
			mark(id, v.id, KeptView)
		}
		if v.onto == nil {
			continue
		}
		for _, c := range ownersOf(v.onto, dirs) {
			stay(c, v.id, KeptView)
		}
	}
	for _, im := range s.imports {
		mark(im.base, im.id, KeptImport)
	}
}

// freedLocked is about what removing l frees. The packs of a durable layer went
// when it became durable.
func (s *Store) freedLocked(l *layer) int64 {
	n := l.info.DiskBytes
	if l.imported {
		return n
	}
	for _, p := range l.packs {
		if _, here := s.have[p.Digest]; p.Own && !here {
			n -= p.Bytes
		}
	}
	return max(n, 0)
}

// allBlobs are the packs that l's index names and the index, or the indexes that it
// was made of: what is to be had elsewhere.
func allBlobs(l *layer) []Blob {
	out := make([]Blob, 0, len(l.packs)+1)
	for _, p := range l.packs {
		out = append(out, Blob{Digest: p.Digest, Bytes: p.Bytes})
	}
	for i := range l.chain {
		out = append(out, l.chain[i].Blob)
	}
	if len(l.chain) > 0 {
		return out
	}
	return append(out, Blob{Digest: l.info.Index, Bytes: l.info.IndexBytes})
}

// next takes the best candidate, nil if there is none.
func (p *evictPlan) next() *candidate {
	if len(p.ready) == 0 {
		return nil
	}
	return heap.Pop(&p.ready).(*candidate) //nolint:forcetypeassert // nothing else is put there
}

// gone lets what c stood on go, too.
func (p *evictPlan) gone(c *candidate) {
	for _, o := range c.needs {
		if o.above--; o.above == 0 && o.reason != "" {
			heap.Push(&p.ready, o)
		}
	}
	c.reason, c.stays, c.bytes = "", "", 0
}

func (p *evictPlan) stays(c *candidate, why Reason, err error) {
	c.reason, c.stays, c.text = "", why, err.Error()
}

// kept sums up what is left.
func (p *evictPlan) kept() []Kept {
	sum := map[Reason]*Kept{}
	largest := map[Reason]int64{}
	for _, c := range p.all {
		why := c.stays
		if c.reason != "" {
			why = KeptUnder // it could go, but something stands on it
		}
		if why == "" {
			continue
		}
		k := sum[why]
		if k == nil {
			k = &Kept{Reason: why}
			sum[why] = k
			largest[why] = -1
		}
		k.Layers++
		k.Bytes += c.bytes
		if c.bytes > largest[why] {
			largest[why] = c.bytes
			k.Example, k.By, k.Text = c.id, c.by, c.text
		}
	}
	out := make([]Kept, 0, len(sum))
	for _, k := range sum {
		out = append(out, *k)
	}
	slices.SortFunc(out, func(a, b Kept) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// candidates is a heap: what is of no use, then the longest unused, then the
// largest. Ages count in doublings, so that an hour more or less does not keep a
// large layer that was not used for days.
type candidates []*candidate

func (h candidates) Len() int      { return len(h) }
func (h candidates) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Less implements heap.Interface.
func (h candidates) Less(i, j int) bool {
	a, b := h[i], h[j]
	useless := func(c *candidate) int {
		if c.reason == EvictDurable {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(useless(b), useless(a)), cmp.Compare(b.age, a.age),
		cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.seq, b.seq),
	) < 0
}

// Push implements heap.Interface.
func (h *candidates) Push(x any) { *h = append(*h, x.(*candidate)) } //nolint:forcetypeassert // see next

// Pop implements heap.Interface.
func (h *candidates) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}
