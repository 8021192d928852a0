package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/roost-ci/roost/snapshot/pack"
)

// goodAgain is good of a large layer that is in order but for its index, once that is
// made again. What else is wrong, and of a small layer all, is left to all.
func (c *checkup) goodAgain(ctx context.Context) bool {
	s := c.x.s
	if !s.isLarge("", int(c.in.Entries)) || c.x.o.NoRepair {
		return false
	}
	why := fileDigest(s.indexPath(c.in.Index), "index", c.in.Index)
	if why == nil {
		return false
	}
	from, err := c.fetchIndexAgain(ctx)
	if err != nil {
		return false // all tries more, and says why
	}
	c.add(Damage{What: "index", Name: c.in.Index.String(), Why: reason(why), From: from})
	return c.good(ctx)
}

// reason is what is wrong with something that err is about.
func reason(err error) string {
	if why := asCorrupt(err); why != "" {
		return why
	}
	return err.Error()
}

// fetchIndexAgain is the part of remakeIndex that needs no list in memory.
func (c *checkup) fetchIndexAgain(ctx context.Context) (from string, err error) {
	if c.in.Folded {
		return fromBlobStore, c.refoldInParts(ctx)
	}
	return fromBlobStore, c.fetchBlob(ctx, c.in.Index, c.in.IndexBytes, c.x.s.indexPath(c.in.Index))
}

// refoldInParts is refold of a large layer whose manifest is in order.
func (c *checkup) refoldInParts(ctx context.Context) error {
	s := c.x.s
	if c.x.o.Open == nil || len(c.l.chain) == 0 {
		return errNoCopy
	}
	defer lean(int(c.in.Entries))()
	chain := make([]ImportSpec, len(c.l.chain))
	for i, b := range c.l.chain {
		chain[i] = ImportSpec{Index: b.Digest, IndexBytes: b.Bytes}
	}
	files, done, err := s.fetchChain(ctx, chain, c.x.o.Open)
	if err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	defer done()
	for i := range files { // what is between is known by nobody else
		x, err := openIndexAt(files[i].file.Name(), chain[i].Index)
		if err != nil {
			return fmt.Errorf("blob store: %w", err)
		}
		chain[i].Manifest = x.Tables.Manifest
		x.Close() //nolint:errcheck // only read
	}
	chain[0].Base, chain[len(chain)-1].Manifest = c.in.Base, c.in.Manifest
	b := &brought{spec: ImportSpec{ID: c.in.ID, Base: c.in.Base, Manifest: c.in.Manifest, DomainKey: c.l.key}}
	if b.parts, err = s.treeInParts(ctx, files); err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	b.parts.abort() // it is the one that is here
	newest := slices.Clone(b.parts.tables)
	slices.Reverse(newest)
	b.where = &pack.Places{}
	for _, x := range newest {
		b.where.Add(x, nil)
	}
	if err := s.foldInParts(ctx, b, newest); err != nil {
		return err
	}
	defer b.file.Abort()
	if b.spec.Index != c.in.Index {
		return errors.New("made again it is another index")
	}
	return c.replace(b.file, s.indexPath(c.in.Index))
}
