package store

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// A line of snapshots, each on the one before, would be a chain of layers that
// grows for ever: every host without it would have to fetch them all, one after
// the other. So a chain is bounded, by Options.MaxChain: the layer beyond it is
// written against the empty tree, and its index names all that the snapshot has.
// Nothing is stored again, since the index refers to the packs of its ancestors.
//
// Only what travels begins anew. Here the layer stands where it stood: its view,
// its tree and what may be removed go by Info.Base, other hosts by Info.WireBase.

// chainLen is the number of layers that a host without any has to fetch for id,
// itself included; 0 for none. What a packed layer's index is against is held as
// long as the layer is.
func (s *Store) chainLen(id snapshot.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for seen := 0; id != "" && seen < len(s.layers); seen++ {
		l, ok := s.layers[id]
		if !ok {
			break
		}
		n += 1 + l.below
		id = l.info.WireBase
	}
	return n
}

// beginAnew turns the index of e, which is against its base, into one against the
// empty tree. All of e.tree is hashed, and its chunks are in e's own packs or in
// those that o.Known tells of, so no file is read, but where an ancestor's index
// can't be: that one's content is stored again.
func beginAnew(ctx context.Context, o pack.EncoderOptions, e *encoded) error {
	ix, stats, err := pack.Encode(ctx, alsoKnown(o, e.ix), tree.Diff(nil, e.tree))
	if err != nil {
		return err
	}
	e.instead(ix, stats)
	e.base = ""
	return nil
}

// alsoKnown is o that knows what ix says as well.
func alsoKnown(o pack.EncoderOptions, ix *pack.Index) pack.EncoderOptions {
	mine, known := pack.PlacesOf(ix), o.Known
	o.Known = func(d snapshot.Digest) (pack.Location, bool) {
		if loc, ok := mine.Find(d); ok {
			return loc, true
		}
		return known(d)
	}
	return o
}

// instead makes ix the index, for which more may have been stored. What it names of
// the packs that were made before is the layer's own.
func (e *encoded) instead(ix *pack.Index, more pack.Stats) {
	own := make(map[snapshot.Digest]bool, len(e.ix.Packs))
	for _, p := range e.ix.Packs {
		own[p.Digest] = p.Own
	}
	for i := range ix.Packs {
		p := &ix.Packs[i]
		p.Own = p.Own || own[p.Digest]
	}
	e.ix = ix
	e.stats.Stored += more.Stored
	e.stats.New += more.New
	e.stats.Elapsed += more.Elapsed
}

// weigh sets what fetching a layer with this index takes. What is against a base
// brings what it stored: the chunks that it has of others' packs are mostly in the
// base's files. What is against nothing brings all frames that it names.
func (in *Info) weigh(ix *pack.Index) {
	in.FetchBytes = in.StoredBytes
	if in.WireBase != "" {
		return
	}
	all := in.IndexBytes
	for i := range ix.Frames {
		all += int64(ix.Frames[i].Stored)
	}
	in.FetchBytes = max(in.FetchBytes, all)
}
