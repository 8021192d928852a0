package tree

import (
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Maximal returns ids without repetitions and without those that are ancestors of
// others, in their order. graph maps a snapshot to its parents; one that it does
// not know has none.
func Maximal(graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID) []snapshot.ID {
	above := map[snapshot.ID]bool{}
	for _, id := range ids {
		for _, p := range graph[id] {
			ancestors(graph, p, above)
		}
	}
	out := make([]snapshot.ID, 0, len(ids))
	for _, id := range ids {
		if !above[id] && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// MergeBases returns the maximal ones among the common ancestors of ids, sorted.
// A snapshot counts as its own ancestor. None means that they started from
// nothing together; several, that their lines crossed.
func MergeBases(graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID) []snapshot.ID {
	seen := map[snapshot.ID]int{}
	for n, id := range ids {
		mine := map[snapshot.ID]bool{}
		ancestors(graph, id, mine)
		for a := range mine {
			if seen[a] == n { // by all before
				seen[a]++
			}
		}
	}
	var common []snapshot.ID
	for a, n := range seen {
		if n == len(ids) {
			common = append(common, a)
		}
	}
	slices.Sort(common)
	return Maximal(graph, common)
}

// ancestors adds id and all above it to set. It does not recurse, so that a long
// line of snapshots can't exhaust the stack, and it ends on a cycle.
func ancestors(graph map[snapshot.ID][]snapshot.ID, id snapshot.ID, set map[snapshot.ID]bool) {
	todo := []snapshot.ID{id}
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if set[id] {
			continue
		}
		set[id] = true
		todo = append(todo, graph[id]...)
	}
}
