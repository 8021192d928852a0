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
	// mostMerges and mostMergeChanges bound what is kept: some 20 MB (pack.Notes).
	mostMerges       = 32
	mostMergeChanges = 200_000
)

// merges are results of merges, the last used at the end. They live as long as the
// process; a view that is sealed has its own copy on disk.
type merges struct {
	mu      sync.Mutex // guards all below, and key and moves of each
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
	changes  view.Changes // from the tree of base, with the places that files had
	n        int          // of changes

	key   string // of the image; "" for none
	moves uint64 // up to which the image has the places of files
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

// find returns what is known of a merge, nil if nothing, and the key of an image of it
// with files at the places of moves.
func (c *merges) find(of snapshot.Digest, inputs []*layer, moves uint64) (r *mergeResult, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.list {
		if r.of != of || !slices.Equal(r.inputs, inputs) {
			continue
		}
		c.list = append(slices.Delete(c.list, i, i+1), r)
		if r.moves < moves {
			r.moves, r.key = moves, ""
		}
		return r, r.key
	}
	return nil, ""
}

func (c *merges) put(r *mergeResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(func(o *mergeResult) bool { return o.of == r.of })
	if r.n > mostMergeChanges {
		return
	}
	c.list, c.changes = append(c.list, r), c.changes+r.n
	for len(c.list) > mostMerges || c.changes > mostMergeChanges {
		c.changes -= c.list[0].n
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
			c.changes -= o.n
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

// shown is what a driver needs to know of the merge of pl.
func (s *Store) shown(ctx context.Context, pl *plan) *view.Fanin {
	changes := s.relocated(ctx, pl.fanin.changes)
	return &view.Fanin{
		Changes: changes, Entries: pl.merge.entries, Again: pl.again, Key: pl.key,
		Tree: func(fn func(e *snapshot.Entry) error) error {
			base, err := s.mergeTree(ctx, pl.base.info.ID)
			if err != nil {
				return err
			}
			return tree.Over(base, changes)(fn)
		},
	}
}

// relocated is changes with the places where files are when they are gone through.
func (s *Store) relocated(ctx context.Context, changes view.Changes) view.Changes {
	return func(fn func(c *snapshot.Change) error) error {
		r := s.newRelocator(ctx, "")
		if r == nil {
			return changes(fn)
		}
		defer r.close()
		return changes(func(c *snapshot.Change) error {
			r.relocate(&c.Entry)
			return fn(c)
		})
	}
}
