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
