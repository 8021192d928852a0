package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// fanin is a merge that a view shows.
type fanin struct {
	changes view.Changes // from the tree of the view's base; nil of an earlier process
	n       int          // of changes
	bytes   int64        // of the merged tree; -1 if a process before this one made it
	written bool         // to manifests/<id>.fanin; guarded by Store.mu
}

// maxCross bounds how often lines that crossed are followed up: a history of
// strangers must not make the merge run for ever.
const maxCross = 32

// plan resolves the inputs: their maximal ones, merged if there are several.
func (s *Store) plan(ctx context.Context, p *PrepareSpec) (*plan, error) {
	graph := s.graph(p)
	ids := maximalInputs(graph, p.Inputs)
	layers := make([]*layer, len(ids))
	for i, id := range ids {
		l, err := s.input(p, id)
		if err != nil {
			return nil, err
		}
		layers[i] = l
	}
	pl := &plan{parents: ids, stands: ids}
	switch len(ids) {
	case 0:
		return pl, nil
	case 1:
		pl.base = layers[0]
		return pl, nil
	}
	of, err := questionOf(p, graph, ids)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	moves := s.gathering.moves
	s.mu.Unlock()
	if r, key := s.merges.find(of, layers, moves); r != nil {
		pl.again = true
		pl.show(r, key, moves)
		return pl, nil
	}
	merged, err := s.merge(ctx, p, graph, ids)
	if err != nil {
		return nil, err
	}
	// The view stands on the parent that needs the fewest changes, so the fix-up
	// and the layer stay small. The first in the order of needs wins a tie.
	n := slices.Min(merged.Changed)
	k := slices.Index(merged.Changed, n)
	changes, err := alone(merged.Changes(k))
	if err != nil {
		return nil, err
	}
	r := &mergeResult{
		of: of, inputs: layers, base: layers[k], diverged: merged.MTimeDivergence, bytes: merged.Bytes,
		entries: merged.Entries, changes: changes, n: n, moves: moves,
	}
	s.merges.put(r)
	pl.show(r, "", moves)
	return pl, nil
}

// alone has changes in little memory, without the rest of the outcome that they are from.
func alone(changes view.Changes) (view.Changes, error) {
	const put, gone = "", "gone"
	list := &pack.Notes{}
	err := changes(func(c *snapshot.Change) error {
		if c.Delete {
			return list.Append(&snapshot.Entry{Path: c.Entry.Path, Type: snapshot.TypeFifo}, []byte(gone))
		}
		return list.Append(&c.Entry, []byte(put))
	})
	return func(fn func(c *snapshot.Change) error) error {
		return list.Each(func(e *snapshot.Entry, note []byte) error {
			if string(note) == gone {
				return fn(&snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: e.Path}})
			}
			return fn(&snapshot.Change{Entry: *e})
		})
	}, err
}

// show makes the view one of r, of which there may be an image with this key.
func (pl *plan) show(r *mergeResult, key string, moves uint64) {
	pl.base, pl.diverged, pl.merge, pl.key, pl.moves = r.base, r.diverged, r, key, moves
	if r.n > 0 { // else the base is the merge
		pl.fanin = &fanin{changes: r.changes, n: r.n, bytes: r.bytes}
	}
}

// input checks that one input can be stood on.
func (s *Store) input(p *PrepareSpec, id snapshot.ID) (*layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.unpackedLocked(id)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(l.key, p.DomainKey) {
		return nil, fmt.Errorf("snapshot %s belongs to another domain", id)
	}
	for _, in := range p.Inputs {
		if in.Snapshot == id && !in.Manifest.IsZero() && !l.info.Manifest.IsZero() && in.Manifest != l.info.Manifest {
			return nil, &snapshot.CorruptError{
				What: "snapshot", Name: string(id),
				Why: fmt.Sprintf("its manifest is %s here, want %s", l.info.Manifest, in.Manifest),
			}
		}
	}
	return l, nil
}

// merge merges several inputs. What is in memory of their trees is what differs.
func (s *Store) merge(ctx context.Context, p *PrepareSpec, graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID) (*tree.Merged, error) {
	defer lean(s.entriesIn(ids))()
	parents, err := s.mergeParents(ctx, ids, func(id snapshot.ID) string { return jobOf(p, id) })
	if err != nil {
		return nil, err
	}
	o := tree.MergeOptions{
		Order: p.Order, Prefer: p.Prefer, Atomic: p.Atomic, Caches: p.Caches, Folds: s.folds,
		Same: sameContent(ctx, p.DomainKey),
	}
	base, err := s.mergeBase(ctx, graph, ids, o, 0)
	if err != nil {
		return nil, fmt.Errorf("what the inputs have in common: %w", err)
	}
	o.Notes = &pack.Notes{}
	return tree.Merge(base, parents, o)
}

func (s *Store) mergeParents(ctx context.Context, ids []snapshot.ID, job func(snapshot.ID) string) ([]tree.Parent, error) {
	parents := make([]tree.Parent, len(ids))
	for i, id := range ids {
		t, err := s.mergeTree(ctx, id)
		if err != nil {
			return nil, err
		}
		parents[i] = tree.Parent{Job: job(id), Tree: t}
	}
	return parents, nil
}

// mergeTree is a tree that is merged, in memory only if it is there anyhow or is small.
func (s *Store) mergeTree(ctx context.Context, id snapshot.ID) (view.Tree, error) {
	s.mu.Lock()
	l, err := s.usableLocked(id)
	packed := err == nil && !l.info.Index.IsZero()
	s.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case packed:
		return s.readTree(ctx, l), nil
	}
	return s.treeBelow(ctx, l)
}

// entriesIn is how many entries there are in these trees, as far as it is known.
func (s *Store) entriesIn(ids []snapshot.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, id := range ids {
		if l := s.layers[id]; l != nil {
			n += int(l.info.Entries)
		}
	}
	return n
}

// mergeBase returns what ids had in common: the tree of their nearest common
// ancestor, nil if there is none. If their lines crossed there are several; then
// it is the merge of those, without the paths that they disagree about, so that
// whoever settled such a path differently is in conflict.
func (s *Store) mergeBase(ctx context.Context, graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID,
	o tree.MergeOptions, crossed int,
) (view.Tree, error) {
	common := tree.MergeBases(graph, ids)
	switch {
	case len(common) == 0:
		return nil, nil
	case len(common) == 1:
		return s.mergeTree(ctx, common[0])
	case crossed == maxCross:
		return nil, errors.New("their histories cross too often")
	}
	base, err := s.mergeBase(ctx, graph, common, o, crossed+1)
	if err != nil {
		return nil, err
	}
	parents, err := s.mergeParents(ctx, common, func(id snapshot.ID) string { return string(id) })
	if err != nil {
		return nil, err
	}
	o.Order, o.Prefer, o.Folds, o.Notes = false, nil, false, &pack.Notes{}
	merged, err := tree.Merge(base, parents, o)
	var disputed []string
	var conflict *snapshot.ConflictError
	if errors.As(err, &conflict) {
		for _, c := range conflict.Conflicts { // sorted
			disputed = append(disputed, c.Path)
		}
		o.Order, o.Notes = true, &pack.Notes{}
		merged, err = tree.Merge(base, parents, o)
	}
	if err != nil {
		return nil, err
	}
	return tree.Without(tree.Over(parents[0].Tree, merged.Changes(0)), disputed)
}

// sameContent compares two files by what is in them.
func sameContent(ctx context.Context, key []byte) func(a, b *snapshot.Entry) (bool, error) {
	return func(a, b *snapshot.Entry) (bool, error) { return pack.Same(ctx, key, a, b) }
}

// graph is the history given by the coordinator, and what is known here.
func (s *Store) graph(p *PrepareSpec) map[snapshot.ID][]snapshot.ID {
	g := make(map[snapshot.ID][]snapshot.ID, len(p.Lineage))
	s.mu.Lock()
	for id, l := range s.layers {
		g[id] = l.info.Parents
	}
	s.mu.Unlock()
	for _, n := range p.Lineage {
		if _, ok := g[n.ID]; !ok || len(n.Parents) > 0 {
			g[n.ID] = n.Parents
		}
	}
	return g
}

func maximalInputs(graph map[snapshot.ID][]snapshot.ID, inputs []Input) []snapshot.ID {
	ids := make([]snapshot.ID, len(inputs))
	for i, in := range inputs {
		ids[i] = in.Snapshot
	}
	return tree.Maximal(graph, ids)
}

// commonBases lists all snapshots that mergeBase would look at.
func commonBases(graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID) []snapshot.ID {
	var out []snapshot.ID
	for range maxCross {
		ids = tree.MergeBases(graph, ids)
		out = append(out, ids...)
		if len(ids) < 2 {
			break
		}
	}
	return out
}

func jobOf(p *PrepareSpec, id snapshot.ID) string {
	for _, in := range p.Inputs {
		if in.Snapshot == id {
			return in.Job
		}
	}
	return string(id)
}
