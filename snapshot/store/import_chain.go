package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// brought is what an import is going to unpack: everything but content, checked.
type brought struct {
	spec      ImportSpec // what was asked for; of a chain, with the folded index and its base
	asked     *ImportSpec
	below     []ImportSpec // the rest of the chain
	kept      []kept       // of a chain, what is left of each of its layers
	base      *snapshot.Manifest
	basePlace *view.Layer
	file      *durable.File // the index, not committed; nil if it is to be written yet
	ix        *pack.Index
	tree      *snapshot.Manifest
	sources   func() ([]byte, error) // encodeBeside of the tree, once that has them

	// Of a large tree, instead of tree and of what is in ix beside tables:
	parts *pulledTree
	where *pack.Places // of chunks
	whole view.Tree    // with sources
}

// entries is how many the tree has.
func (b *brought) entries() int64 {
	if b.parts != nil {
		return b.parts.sum.entries
	}
	return int64(len(b.tree.Entries))
}

// chain is all that was asked for, the first one first.
func (b *brought) chain() []ImportSpec {
	return append(b.below[:len(b.below):len(b.below)], *b.asked)
}

// drop deletes the file of the index if it was not committed.
func (b *brought) drop() {
	if b.file != nil {
		b.file.Abort()
	}
}

// located returns the tree with the sources that the changes have by now.
func (b *brought) located() (*snapshot.Manifest, error) {
	same := func(e snapshot.Entry, c snapshot.Change) bool { return e.Path == c.Entry.Path }
	if b.base != nil || !slices.EqualFunc(b.tree.Entries, b.ix.Changes, same) {
		return tree.Apply(b.base, b.ix.Changes)
	}
	t := &snapshot.Manifest{Entries: slices.Clone(b.tree.Entries)}
	for i := range t.Entries {
		t.Entries[i].Source, t.Entries[i].SourceAt = b.ix.Changes[i].Entry.Source, b.ix.Changes[i].Entry.SourceAt
	}
	return t, nil
}

// checkChain checks what a chain says of itself.
func checkChain(chain []ImportSpec) error {
	if len(chain) == 0 {
		return errors.New("an empty chain")
	}
	for i := 1; i < len(chain); i++ {
		if chain[i].Base != chain[i-1].ID {
			return fmt.Errorf("%s stands on %q and not on %s, which comes before it", chain[i].ID, chain[i].Base, chain[i-1].ID)
		}
		if string(chain[i].DomainKey) != string(chain[0].DomainKey) {
			return fmt.Errorf("%s belongs to another domain than %s", chain[i].ID, chain[0].ID)
		}
	}
	return nil
}

// notHeld is what is left of a chain behind the last one that views may stand on.
func (s *Store) notHeld(chain []ImportSpec) []ImportSpec {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(chain) - 1; i >= 0; i-- {
		if _, err := s.unpackedLocked(chain[i].ID); err == nil {
			return chain[i+1:]
		}
	}
	return chain
}

// bring fetches and checks all that is to be known of spec, which stands on the chain
// below, before its content is fetched. The digest of its manifest says all about the
// tree but what the chunks hold, so a lie is found before a byte of content comes.
func (s *Store) bring(ctx context.Context, spec *ImportSpec, below []ImportSpec, open OpenBlobFunc) (_ *brought, err error) {
	b := &brought{spec: *spec, asked: spec, below: below}
	b.spec.Later = s.laterHere(spec)
	if len(below) > 0 {
		b.spec.Base = below[0].Base
	}
	if b.base, b.basePlace, err = s.importBase(ctx, &b.spec); err != nil {
		return nil, err
	}
	if len(below) == 0 {
		err = s.bringOne(ctx, b, open)
	} else {
		err = s.bringChain(ctx, b, b.chain(), open)
	}
	if err != nil {
		b.drop()
	}
	return b, err
}

func (s *Store) bringOne(ctx context.Context, b *brought, open OpenBlobFunc) (err error) {
	if b.file, b.ix, err = s.fetchIndex(ctx, &b.spec, open); err != nil {
		return err
	}
	if err := s.checkIndex(&b.spec, b.ix); err != nil {
		return err
	}
	if b.tree, err = tree.Apply(b.base, b.ix.Changes); err != nil {
		return fmt.Errorf("index %s: %w", b.spec.Index, err)
	}
	if err := checkMade(&b.spec, b.tree); err != nil {
		return err
	}
	b.ix.Changes = tree.Relink(b.tree, b.ix.Changes)
	return nil
}

// checkMade checks that an index made the tree that was asked for.
func checkMade(spec *ImportSpec, made *snapshot.Manifest) error {
	d, err := pack.ManifestDigest(made)
	if err != nil || d != spec.Manifest {
		return errors.Join(err, &snapshot.CorruptError{
			What: "index", Name: spec.Index.String(),
			Why: fmt.Sprintf("it makes the tree %s, want %s", d, spec.Manifest),
		})
	}
	return nil
}

// bringChain does it for a chain, of which the last one is wanted. Trees between are
// not compared with their digests: whatever the indexes say, the last tree must be the
// one that was asked for, and each chunk what its name says.
func (s *Store) bringChain(ctx context.Context, b *brought, chain []ImportSpec, open OpenBlobFunc) error {
	newest, err := s.fetchIndexes(ctx, chain, open)
	if err != nil {
		return err
	}
	var before snapshot.Digest
	if b.spec.Base != "" {
		in, err := s.Lookup(b.spec.Base)
		if err != nil {
			return err
		}
		before = in.Manifest
	}
	for i := range chain {
		if err := checkAgainst(&chain[i], newest[len(chain)-1-i], before); err != nil {
			return err
		}
		before = chain[i].Manifest
	}
	if b.tree, b.ix, err = fold(b.base, newest, &chain[len(chain)-1]); err != nil {
		return err
	}
	b.kept = keptOf(b.ix, newest)
	b.spec.Index, b.spec.IndexBytes = snapshot.Digest{}, 0 // until it is written
	return nil
}

// fold makes one index of those of a chain on base, the last one first, of which tip is
// wanted. Each has been checked by itself.
func fold(base *snapshot.Manifest, newest []*pack.Index, tip *ImportSpec) (m *snapshot.Manifest, ix *pack.Index, err error) {
	m = base
	for i, ix := range slices.Backward(newest) {
		if m, err = tree.Apply(m, ix.Changes); err != nil {
			return nil, nil, fmt.Errorf("index %d of a chain of %d: %w", len(newest)-i, len(newest), err)
		}
	}
	made := make(chan error, 1)
	go func() { made <- checkMade(tip, m) }()
	ix, err = pack.Fold(newest, tree.Diff(base, m))
	if bad := <-made; bad != nil { // says more
		err = bad
	}
	if err != nil {
		return nil, nil, err
	}
	ix.Base, ix.Manifest = newest[len(newest)-1].Base, tip.Manifest
	return m, ix, nil
}

// writeFolded writes the index that a chain came to, and puts its name into b.spec.
func (s *Store) writeFolded(b *brought) (err error) {
	write := func(w *bufio.Writer) (snapshot.Digest, error) { return pack.WriteIndex(w, b.ix) }
	b.file, b.spec.Index, b.spec.IndexBytes, err = s.draftIndex(write)
	return err
}

// fetchIndexes brings the indexes of a chain, the last one first. No file is kept.
func (s *Store) fetchIndexes(ctx context.Context, chain []ImportSpec, open OpenBlobFunc) ([]*pack.Index, error) {
	out := make([]*pack.Index, len(chain))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pullers)
	for i := range chain {
		g.Go(func() error {
			f, ix, err := s.fetchIndex(ctx, &chain[i], open)
			if err != nil {
				return err
			}
			f.Abort()
			out[len(chain)-1-i] = ix
			return nil
		})
	}
	return out, g.Wait()
}
