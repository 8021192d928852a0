package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// What was merged once is not merged again: every job of a stage may need the same
// two builds, and a retry has the inputs of the attempt before. What is kept of a
// merge is what it changed, not its tree, so that it is small; where the driver made
// an image of it, that is found by its key, and the tree is not needed at all.
//
// The order of inputs is part of the question: the first decides about times, about a
// .git and about caches. It is that of the needs, never that in which
// jobs ended, so the same job asks the same every time.

const (
	// mostMerges and mostMergeChanges bound what is kept: some 40 MB of entries, whose
	// names the trees in memory mostly have too.
	mostMerges       = 32
	mostMergeChanges = 200_000
)

// merges are results of merges, the last used at the end. They live as long as the
// process; a view that is sealed has its own copy on disk.
type merges struct {
	mu      sync.Mutex // guards all below, and key, moves and changes of each
	list    []*mergeResult
	changes int
}

// mergeResult is the outcome of one merge. All but what merges.mu guards is fixed.
type mergeResult struct {
	of       snapshot.Digest // of inputs, what they have in common, and policy
	inputs   []*layer        // as they were then: one that went and came back is another
	base     *layer
	diverged int
	bytes    int64
	entries  int

	changes []snapshot.Change // from the tree of base; never written to
	moves   uint64            // up to which changes have the places of files
	key     string            // of the image; "" for none
}

// mergeQuestion is all that a merge depends on.
type mergeQuestion struct {
	Inputs []snapshot.ID
	Jobs   []string
	Common []snapshot.ID
	Order  bool
	Prefer []tree.Prefer
	Atomic []string
	Caches []string
	Key    []byte
}

func questionOf(p *PrepareSpec, graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID) (snapshot.Digest, error) {
	q := mergeQuestion{
		Inputs: ids, Common: commonBases(graph, ids),
		Order: p.Order, Prefer: p.Prefer, Atomic: p.Atomic, Caches: p.Caches, Key: p.DomainKey,
	}
	if len(p.Prefer) > 0 { // else names are for conflicts, which are not kept
		for _, id := range ids {
			q.Jobs = append(q.Jobs, jobOf(p, id))
		}
	}
	b, err := json.Marshal(q)
	return sha256.Sum256(b), err
}

// find returns what is known of a merge, nil if nothing. changes are those of now.
func (c *merges) find(of snapshot.Digest, inputs []*layer) (r *mergeResult, changes []snapshot.Change, moves uint64, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.list {
		if r.of != of || !slices.Equal(r.inputs, inputs) {
			continue
		}
		c.list = append(slices.Delete(c.list, i, i+1), r)
		return r, r.changes, r.moves, r.key
	}
	return nil, nil, 0, ""
}

func (c *merges) put(r *mergeResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(func(o *mergeResult) bool { return o.of == r.of })
	if len(r.changes) > mostMergeChanges {
		return
	}
	c.list, c.changes = append(c.list, r), c.changes+len(r.changes)
	for len(c.list) > mostMerges || c.changes > mostMergeChanges {
		c.changes -= len(c.list[0].changes)
		c.list = slices.Delete(c.list, 0, 1)
	}
}

// forget drops all that l is an input of: it will go.
func (c *merges) forget(l *layer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(func(o *mergeResult) bool { return slices.Contains(o.inputs, l) })
}

func (c *merges) dropLocked(which func(*mergeResult) bool) {
	c.list = slices.DeleteFunc(c.list, func(o *mergeResult) bool {
		if which(o) {
			c.changes -= len(o.changes)
			return true
		}
		return false
	})
}

// imaged notes the key of an image that shows r with files at the places of moves.
func (c *merges) imaged(r *mergeResult, moves uint64, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.moves == moves {
		r.key = key
	}
}

// moved notes that files of r have other places since moves.
func (c *merges) moved(r *mergeResult, moves uint64, changes []snapshot.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if moves > r.moves {
		r.changes, r.moves, r.key = changes, moves, ""
	}
}

// mergedAgain fills in pl from what is known of the merge of, and reports whether it
// could.
func (s *Store) mergedAgain(ctx context.Context, pl *plan, of snapshot.Digest, inputs []*layer) bool {
	r, changes, then, key := s.merges.find(of, inputs)
	if r == nil {
		return false
	}
	s.mu.Lock()
	moves := s.gathering.moves
	s.mu.Unlock()
	if then != moves {
		changes, key = s.relocateChanges(ctx, changes), ""
		s.merges.moved(r, moves, changes)
	}
	pl.base, pl.diverged, pl.merge, pl.moves = r.base, r.diverged, r, moves
	if len(changes) == 0 {
		return true // the base is the merge
	}
	pl.fanin = &fanin{changes: changes}
	pl.again = &view.Again{Key: key, Entries: r.entries, Tree: func(ctx context.Context) (*snapshot.Manifest, error) {
		base, err := s.Tree(ctx, r.base.info.ID)
		if err != nil {
			return nil, err
		}
		return tree.Apply(base, changes)
	}}
	return true
}

// relocateChanges returns changes with the places where files are now.
func (s *Store) relocateChanges(ctx context.Context, changes []snapshot.Change) []snapshot.Change {
	m := &snapshot.Manifest{Entries: make([]snapshot.Entry, len(changes))}
	for i := range changes {
		m.Entries[i] = changes[i].Entry
	}
	if !s.relocateIn(ctx, "", m, func() {}) {
		return changes
	}
	out := slices.Clone(changes)
	for i := range out {
		out[i].Entry = m.Entries[i]
	}
	return out
}
