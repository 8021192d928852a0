package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// fanin is a merge that a view shows.
type fanin struct {
	changes []snapshot.Change // from the tree of the view's base
	bytes   int64             // of the merged tree; -1 if a process before this one made it
	written bool              // to manifests/<id>.fanin; guarded by Store.mu
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
	if s.mergedAgain(ctx, pl, of, layers) {
		return pl, nil
	}
	s.mu.Lock()
	moves := s.gathering.moves
	s.mu.Unlock()
	merged, parents, err := s.merge(ctx, p, graph, ids)
	if err != nil {
		return nil, err
	}
	// The view stands on the parent that needs the fewest changes, so the fix-up
	// and the layer stay small. The first in the order of needs wins a tie.
	for i, t := range parents {
		ch := tree.Diff(t.Tree, merged.Tree)
		if pl.fanin == nil || len(ch) < len(pl.fanin.changes) {
			pl.base = layers[i]
			pl.fanin = &fanin{changes: ch}
		}
	}
	pl.merged, pl.diverged = merged.Tree, merged.MTimeDivergence
	pl.moves, pl.merge = moves, &mergeResult{
		of: of, inputs: layers, base: pl.base, diverged: pl.diverged, bytes: pl.merged.Bytes(),
		entries: len(pl.merged.Entries), changes: pl.fanin.changes, moves: moves,
	}
	s.merges.put(pl.merge)
	if len(pl.fanin.changes) == 0 {
		pl.fanin = nil // that parent is the merge
	}
	return pl, nil
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

// merge computes the merged tree of several inputs.
func (s *Store) merge(ctx context.Context, p *PrepareSpec, graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID,
) (*tree.Merged, []tree.Parent, error) {
	parents := make([]tree.Parent, len(ids))
	for i, id := range ids {
		m, err := s.Tree(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		parents[i] = tree.Parent{Job: jobOf(p, id), Tree: m}
	}
	o := tree.MergeOptions{
		Order: p.Order, Prefer: p.Prefer, Atomic: p.Atomic, Caches: p.Caches, Same: sameContent(ctx, p.DomainKey),
	}
	base, err := s.mergeBase(ctx, graph, ids, o, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("what the inputs have in common: %w", err)
	}
	merged, err := tree.Merge(base, parents, o)
	if err != nil {
		return nil, nil, err
	}
	return merged, parents, nil
}

// mergeBase returns what ids had in common: the tree of their nearest common
// ancestor, nil if there is none. If their lines crossed there are several; then
// it is the merge of those, without the paths that they disagree about, so that
// whoever settled such a path differently is in conflict.
func (s *Store) mergeBase(ctx context.Context, graph map[snapshot.ID][]snapshot.ID, ids []snapshot.ID,
	o tree.MergeOptions, crossed int,
) (*snapshot.Manifest, error) {
	common := tree.MergeBases(graph, ids)
	switch {
	case len(common) == 0:
		return nil, nil //nolint:nilnil // nil is the empty tree
	case len(common) == 1:
		return s.Tree(ctx, common[0])
	case crossed == maxCross:
		return nil, errors.New("their histories cross too often")
	}
	base, err := s.mergeBase(ctx, graph, common, o, crossed+1)
	if err != nil {
		return nil, err
	}
	parents := make([]tree.Parent, len(common))
	for i, id := range common {
		if parents[i].Tree, err = s.Tree(ctx, id); err != nil {
			return nil, err
		}
		parents[i].Job = string(id)
	}
	o.Order, o.Prefer = false, nil
	merged, err := tree.Merge(base, parents, o)
	var conflict *snapshot.ConflictError
	if !errors.As(err, &conflict) {
		if err != nil {
			return nil, err
		}
		return merged.Tree, nil
	}
	o.Order = true
	if merged, err = tree.Merge(base, parents, o); err != nil {
		return nil, err
	}
	return without(merged.Tree, conflict.Conflicts)
}

// without removes the paths of conflicts, and what is below them.
func without(m *snapshot.Manifest, conflicts []snapshot.Conflict) (*snapshot.Manifest, error) {
	var del []snapshot.Change
	for _, c := range conflicts { // sorted
		if _, ok := m.Find(c.Path); !ok || c.Path == "" {
			continue
		}
		if n := len(del); n > 0 && overlaps(del[n-1].Entry.Path, c.Path) {
			continue
		}
		del = append(del, snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: c.Path}})
	}
	return tree.Apply(m, del)
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
