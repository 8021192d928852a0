package store

import (
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// An index and a manifest are called by their digests, so layers that are alike have them
// in common: two jobs that changed nothing on the same base, to name some. They are deleted
// with the last row that names them. A layer that is being packed or fetched has no row that
// does so yet, and may do it for long; it says beforehand what its row is going to name.

// naming is what layers without such rows are going to name.
type naming struct {
	// mu is held while it is found out which files nobody needs, and while they are deleted:
	// what was looked for and found there after claim is not deleted. Lock order: before
	// Store.mu.
	mu     sync.Mutex
	claims map[snapshot.ID][]snapshot.Digest
}

// claim says that the row of id is going to name these. It comes before the files are
// looked for or made; whoever makes the row calls release in the end.
func (n *naming) claim(id snapshot.ID, files ...snapshot.Digest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.claims == nil {
		n.claims = map[snapshot.ID][]snapshot.Digest{}
	}
	n.claims[id] = append(n.claims[id], files...)
}

// release ends what id claimed: its row is there, or there will be none.
func (n *naming) release(id snapshot.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.claims, id)
}

// othersLocked are the files that others than id claim.
func (n *naming) othersLocked(id snapshot.ID) map[string]bool {
	want := map[string]bool{}
	for by, files := range n.claims {
		for _, d := range files {
			want[d.String()] = want[d.String()] || by != id
		}
	}
	return want
}
