package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// A layer that was fetched as the last one of a chain has an index that nobody else
// has. Its row says of which ones that was made, so that it can be made again, and so
// that it is known what must be elsewhere for the layer to be had there.

// link is one layer of a chain that is one layer here.
type link struct {
	Blob // its index elsewhere
	ID   snapshot.ID
	kept
}

// kept is how much of what a layer stored is content that a tree shows. Rows of older
// versions have nothing of that, nor link.ID.
type kept struct {
	Kept  int64 // as it is stored
	Plain int64
}

// standFor notes that l is what b's chain is elsewhere.
func (l *layer) standFor(b *brought) {
	if l.below = len(b.below); l.below == 0 {
		return
	}
	for i, s := range b.chain() {
		l.chain = append(l.chain, link{Blob{Digest: s.Index, Bytes: s.IndexBytes}, s.ID, b.kept[i]})
	}
}

// parts is what l has of snapshots that are not held by their names.
func (l *layer) parts() []Part {
	var out []Part
	tree := l.info.TreeBytes
	for i := len(l.chain) - 2; i >= 0; i-- {
		tree -= l.chain[i+1].Plain
		if c := &l.chain[i]; c.ID != "" {
			out = append(out, Part{c.ID, c.Kept, max(tree, 0)})
		}
	}
	slices.Reverse(out)
	return out
}

// keptOf is how much ix, which was folded from newest, has of what each stored, the
// first of the chain first: of a frame of which it needs a part, that part. What none of them stored the first one has from before the
// chain, if it is against nothing.
func keptOf(ix *pack.Index, newest []*pack.Index) []kept {
	first := len(newest) - 1
	owner := map[snapshot.Digest]int{}
	for i, x := range newest {
		for _, p := range x.Packs {
			if p.Own {
				owner[p.Digest] = first - i
			}
		}
	}
	out := make([]kept, len(newest))
	for i := range ix.Chunks {
		f := &ix.Frames[ix.Chunks[i].Frame]
		n, ok := owner[ix.Packs[f.Pack].Digest]
		if ok || newest[first].Base.IsZero() {
			out[n].Kept += int64(f.Stored) * int64(ix.Chunks[i].Len) / int64(max(f.Plain, 1))
			out[n].Plain += int64(ix.Chunks[i].Len)
		}
	}
	return out
}

// chainText is what the row says of the chain.
func (l *layer) chainText() (string, error) {
	if len(l.chain) == 0 {
		return "", nil
	}
	b, err := json.Marshal(l.chain)
	return string(b), err
}

func (l *layer) readChain(text string) error {
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &l.chain); err != nil {
		return fmt.Errorf("%s: chain: %w", l.info.ID, err)
	}
	return nil
}

// refold makes the index of a folded layer again from those that it was made of.
func (c *checkup) refold(ctx context.Context) error {
	s := c.x.s
	if c.x.o.Open == nil || len(c.l.chain) == 0 {
		return errNoCopy
	}
	chain := make([]ImportSpec, len(c.l.chain))
	for i, b := range c.l.chain {
		chain[i] = ImportSpec{Index: b.Digest, IndexBytes: b.Bytes, Manifest: c.in.Manifest}
	}
	newest, err := s.fetchIndexes(ctx, chain, c.x.o.Open)
	if err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	for _, ix := range newest {
		if err := tree.ValidateChanges(ix.Changes); err != nil {
			return fmt.Errorf("blob store: %w", err)
		}
	}
	var base *snapshot.Manifest
	if c.in.Base != "" {
		if base, err = s.Tree(ctx, c.in.Base); err != nil {
			return err
		}
	}
	_, ix, err := fold(base, newest, &chain[len(chain)-1])
	if err != nil {
		return err
	}
	f, d, _, err := s.draftIndex(func(w *bufio.Writer) (snapshot.Digest, error) { return pack.WriteIndex(w, ix) })
	if err != nil {
		return err
	}
	defer f.Abort()
	if d != c.in.Index {
		return errors.New("made again it is another index")
	}
	return c.replace(f, s.indexPath(d))
}
