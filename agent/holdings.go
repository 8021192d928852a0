package agent

import (
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot/store"
)

// maxAllParts bounds what is told of parts at once: a list of holdings is one message.
const maxAllParts = 32 << 10

// holding is what the coordinator hears of a layer that is held.
func holding(in *store.Info) api.Holding {
	h := api.Holding{ID: in.ID, Bytes: in.DiskBytes}
	for _, p := range in.Of[max(len(in.Of)-api.MaxParts, 0):] {
		h.Of = append(h.Of, api.Part{ID: p.ID, Bytes: p.Bytes, Tree: p.Tree})
	}
	return h
}

// allHoldings lists what the store can serve, and forgets the changes so far.
func (a *Agent) allHoldings() []api.Holding {
	a.mu.Lock()
	a.holdings = nil // before the list: what changes meanwhile is told twice, not never
	a.mu.Unlock()
	return holdings(a.o.Store.List())
}

// holdings is what list has that can be served. The older of its layers are without
// their parts if these are too many.
func holdings(list []store.Info) []api.Holding {
	var out []api.Holding
	for i := range list {
		if list[i].State.Usable() {
			out = append(out, holding(&list[i]))
		}
	}
	parts := 0
	for i := len(out) - 1; i >= 0; i-- {
		if parts += len(out[i].Of); parts > maxAllParts {
			out[i].Of = nil
		}
	}
	return out
}

// hold notes a change for the next heartbeat.
func (a *Agent) hold(h api.Holding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holdings = append(a.holdings, h)
}
