package coordinator

import (
	"cmp"
	"slices"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// maxBeside bounds how far a line is followed that a layer has content of without
// standing on it.
const maxBeside = 64

// chain gives a snapshot's layer and all that it stands on, the root last.
func chain(get func(snapshot.ID) *state.Snapshot, id snapshot.ID) affinity.Chain {
	var c affinity.Chain
	for id != "" && len(c) < maxLineage {
		x := get(id)
		if x == nil {
			// Nothing is known of it, so it can't be fetched.
			return append(c, affinity.Layer{ID: id})
		}
		c = append(c, layerOf(x))
		if !x.Packed {
			break // what it stands on is known when it is packed
		}
		id = x.Layer.Base
	}
	weigh(get, c)
	return c
}

func layerOf(x *state.Snapshot) affinity.Layer {
	l := affinity.Layer{ID: x.ID, Bytes: x.Bytes, Durable: x.Packed && x.Layer.Durable}
	if x.Packed {
		own := x.Layer.StoredBytes
		if x.Layer.OwnBytes > 0 {
			own = min(own, x.Layer.OwnBytes)
		}
		l.Index = min(x.Layer.IndexBytes, own)
		l.Bytes = own - l.Index
	}
	return l
}

// weigh adds to the layers of c what they have content of beside what they stand on,
// and how much the tree of the first one is at most.
func weigh(get func(snapshot.ID) *state.Snapshot, c affinity.Chain) {
	in := make(map[snapshot.ID]bool, len(c))
	for i := range c {
		in[c[i].ID] = true
	}
	for i := range c {
		x := get(c[i].ID)
		if x == nil || !x.Packed {
			continue
		}
		if x.Layer.Base == "" && x.Layer.OwnBytes == 0 {
			continue // it has stored all of it
		}
		for _, p := range x.Parents {
			if b := lineOf(get, p, in); len(b) > 0 {
				c[i].Beside = append(c[i].Beside, b)
			}
		}
	}
	if len(c) > 0 {
		if c[0].Tree = treeOf(get, c); c[0].Tree > 0 {
			c[0].Plain = get(c[0].ID).Layer.TreeBytes
		}
	}
}

// lineOf is a snapshot and those before it, up to what is in seen, which has them then.
// Where a layer is against nothing it goes on with the first one that it was made from.
func lineOf(get func(snapshot.ID) *state.Snapshot, id snapshot.ID, seen map[snapshot.ID]bool) affinity.Chain {
	var c affinity.Chain
	for id != "" && !seen[id] && len(c) < maxBeside {
		x := get(id)
		if x == nil {
			break
		}
		seen[id] = true
		c = append(c, layerOf(x))
		id = x.Layer.Base
		if id == "" && x.Layer.OwnBytes > 0 && len(x.Parents) > 0 {
			id = x.Parents[0]
		}
	}
	return c
}

// treeOf is what all content of c's first snapshot is stored in at most: if its tree has
// of what its layers brought what could be compressed least. 0 if nobody knows.
func treeOf(get func(snapshot.ID) *state.Snapshot, c affinity.Chain) int64 {
	tip, root := get(c[0].ID), get(c[len(c)-1].ID)
	if tip == nil || !tip.Packed || root == nil || !root.Packed || root.Layer.Base != "" {
		return 0
	}
	type brought struct{ stored, plain int64 }
	parts := []brought{{root.Layer.StoredBytes - root.Layer.IndexBytes, root.Layer.TreeBytes}}
	add := func(l *affinity.Layer) {
		if x := get(l.ID); x != nil {
			parts = append(parts, brought{l.Bytes, x.Layer.PlainBytes})
		}
	}
	for i := range c[:len(c)-1] {
		add(&c[i])
		for _, b := range c[i].Beside {
			for j := range b {
				add(&b[j])
			}
		}
	}
	for i := range parts {
		parts[i].stored = max(parts[i].stored, 0)
		parts[i].plain = max(parts[i].plain, parts[i].stored, 1)
	}
	slices.SortFunc(parts, func(a, b brought) int {
		return cmp.Compare(float64(b.stored)/float64(b.plain), float64(a.stored)/float64(a.plain))
	})
	var sum int64
	left := tip.Layer.TreeBytes
	for _, p := range parts {
		if p.plain > left {
			return sum + int64(float64(p.stored)*float64(left)/float64(p.plain))
		}
		sum, left = sum+p.stored, left-p.plain
	}
	return sum
}

func allDurable(c affinity.Chain) bool {
	return len(c) > 0 && !slices.ContainsFunc(c, func(l affinity.Layer) bool { return !l.Durable })
}
