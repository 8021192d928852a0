package coordinator

import (
	"slices"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// hold takes in what a host says of what it holds. What it has of others with that is
// believed as far as an estimate goes.
func (p *presence) hold(hs []api.Holding) {
	for _, h := range hs {
		p.dropParts(h.ID)
		if h.Gone {
			delete(p.holds, h.ID)
			continue
		}
		p.holds[h.ID] = h.Bytes
		p.addParts(h)
	}
}

func (p *presence) addParts(h api.Holding) {
	of := h.Of[:min(len(h.Of), api.MaxParts)]
	if len(of) == 0 {
		return
	}
	if p.parts == nil {
		p.parts, p.with = map[snapshot.ID][]affinity.Part{}, map[snapshot.ID][]snapshot.ID{}
	}
	for _, x := range of {
		p.parts[x.ID] = append(p.parts[x.ID], affinity.Part{With: h.ID, Bytes: min(x.Bytes, maxAmount), Tree: min(x.Tree, maxAmount)})
		p.with[h.ID] = append(p.with[h.ID], x.ID)
	}
}

func (p *presence) dropParts(id snapshot.ID) {
	for _, x := range p.with[id] {
		p.parts[x] = slices.DeleteFunc(p.parts[x], func(o affinity.Part) bool { return o.With == id })
		if len(p.parts[x]) == 0 {
			delete(p.parts, x)
		}
	}
	delete(p.with, id)
}
