package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// A layer that was fetched as the last one of a chain has an index that nobody else
// has. Its row says of which ones that was made, so that it can be made again, and so
// that it is known what must be elsewhere for the layer to be had there.

// standFor notes that l is what below and tip are elsewhere.
func (l *layer) standFor(below []ImportSpec, tip *ImportSpec) {
	if l.below = len(below); l.below == 0 {
		return
	}
	for i := range below {
		l.chain = append(l.chain, Blob{Digest: below[i].Index, Bytes: below[i].IndexBytes})
	}
	l.chain = append(l.chain, Blob{Digest: tip.Index, Bytes: tip.IndexBytes})
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
