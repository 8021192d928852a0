package transfer

import (
	"fmt"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// LayerRef is what must be known of a layer to fetch it.
type LayerRef struct {
	ID   snapshot.ID
	Base snapshot.ID // "" for none
	// Index names the layer's index blob of IndexBytes, Manifest the whole tree.
	Index       snapshot.Digest
	IndexBytes  int64
	Manifest    snapshot.Digest
	StoredBytes int64
}

// Missing returns the layers to fetch, each base before what stands on it, so that
// every snapshot in want can be had on a host that holds those of which have says
// so. A layer that is needed but not among layers is snapshot.ErrNotFound: it is
// not durable, or it is lost. Layers come from the network: a cycle, or one id with
// two meanings, is an error.
func Missing(layers []LayerRef, have func(snapshot.ID) bool, want []snapshot.ID) ([]LayerRef, error) {
	known := make(map[snapshot.ID]LayerRef, len(layers))
	for _, l := range layers {
		if o, ok := known[l.ID]; ok && o != l {
			return nil, fmt.Errorf("layer %s is listed twice and differs", l.ID)
		}
		known[l.ID] = l
	}
	var out []LayerRef
	done := make(map[snapshot.ID]bool, len(want))
	for _, w := range want {
		chain, err := missingChain(known, have, done, w)
		if err != nil {
			return nil, err
		}
		slices.Reverse(chain)
		out = append(out, chain...)
	}
	return out, nil
}

// Chains divides what Missing returned into chains, in the same order: of each only the
// last layer must be had as a snapshot of its own, since it is wanted or several stand on
// it. Those before it are there for its sake alone.
func Chains(need []LayerRef, want []snapshot.ID) [][]LayerRef {
	above := make(map[snapshot.ID]int, len(need)) // of those that stand on it; wanted counts as several
	for _, w := range want {
		above[w] = 2
	}
	for _, l := range need {
		above[l.Base]++
	}
	var out [][]LayerRef
	begin := 0
	for i, l := range need {
		last := i+1 == len(need) || need[i+1].Base != l.ID
		if last || above[l.ID] > 1 {
			out = append(out, need[begin:i+1:i+1])
			begin = i + 1
		}
	}
	return out
}

// missingChain walks from id down to what is there already, child first. It marks
// what it took in done.
func missingChain(known map[snapshot.ID]LayerRef, have func(snapshot.ID) bool,
	done map[snapshot.ID]bool, id snapshot.ID,
) ([]LayerRef, error) {
	var chain []LayerRef
	walked := map[snapshot.ID]bool{}
	for at := id; at != "" && !done[at] && !have(at); {
		if walked[at] {
			return nil, fmt.Errorf("layers below %s stand on each other in a circle at %s", id, at)
		}
		walked[at] = true
		l, ok := known[at]
		if !ok {
			return nil, fmt.Errorf("layer %s, needed for %s: %w", at, id, snapshot.ErrNotFound)
		}
		chain = append(chain, l)
		at = l.Base
	}
	for _, l := range chain {
		done[l.ID] = true
	}
	return chain, nil
}
