package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// A large tree is imported as a small one is, but that no list of its entries is ever in
// memory: index and manifest come to their places first, and are read from there each
// time that somebody goes through the tree.

// An entry takes about this of an index: a file with content at most and, but for a tree
// of nothing else, what has none at least. Between them it is counted.
const (
	mostEntryBytes  = 40
	leastEntryBytes = 12
)

// bringInParts is bring of a large tree, whose index and manifest have their names
// when it returns. It is nil of a small one, of one that the driver can only show from
// memory, and of one whose indexes list it as only the whole tree makes sense of; then
// again is open for who brings the same indexes once more. done is to be called when all
// is over.
func (s *Store) bringInParts(ctx context.Context, spec *ImportSpec, below []ImportSpec, open OpenBlobFunc) (
	b *brought, again OpenBlobFunc, done func(), err error,
) {
	b = &brought{spec: *spec, asked: spec, below: below}
	b.spec.Later = s.laterHere(spec)
	if len(below) > 0 {
		b.spec.Base = below[0].Base
	}
	size := 0
	for _, c := range b.chain() {
		size += int(c.IndexBytes)
	}
	if _, ok := s.driver.(view.Streamer); !ok || !s.isLarge(b.spec.Base, size/leastEntryBytes) {
		return nil, open, func() {}, nil
	}
	if b.basePlace, err = s.importPlace(ctx, &b.spec); err != nil {
		return nil, nil, nil, err
	}
	chain, done, err := s.fetchChain(ctx, b.chain(), open)
	if err != nil {
		return nil, nil, nil, err
	}
	if !s.isLarge(b.spec.Base, size/mostEntryBytes) {
		n, err := countListed(chain)
		if err == nil && !s.isLarge(b.spec.Base, n) {
			err = errUnlike
		}
		if err != nil {
			return notInParts(chain, open, done, err)
		}
	}
	if err := s.treeOfChain(ctx, b, chain); err != nil {
		return notInParts(chain, open, done, err)
	}
	return b, open, done, nil
}

// notInParts is what bringInParts returns if it can't.
func notInParts(chain []fetchedFile, open OpenBlobFunc, done func(), err error) (*brought, OpenBlobFunc, func(), error) {
	if !errors.Is(err, errUnlike) {
		done()
		return nil, nil, nil, err
	}
	names := map[snapshot.Digest]string{}
	for _, f := range chain {
		names[f.spec.Index] = f.file.Name()
	}
	return nil, func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
		if name, ok := names[d]; ok {
			if f, err := os.Open(name); err == nil {
				return &section{Reader: io.NewSectionReader(f, off, n), Closer: f}, nil
			}
		}
		return open(ctx, d, off, n)
	}, done, nil
}

// countListed counts the changes in indexes.
func countListed(chain []fetchedFile) (n int, err error) {
	for _, f := range chain {
		x, err := openIndexAt(f.file.Name(), f.spec.Index)
		if err != nil {
			return 0, err
		}
		n += x.Len()
		x.Close() //nolint:errcheck // only read
	}
	return n, nil
}

// treeOfChain makes and keeps the tree. errUnlike says that only the whole one can tell.
func (s *Store) treeOfChain(ctx context.Context, b *brought, chain []fetchedFile) (err error) {
	if b.parts, err = s.treeInParts(ctx, chain); err != nil {
		return err
	}
	defer b.parts.abort()
	if err = s.keepTree(ctx, b, chain); err == nil {
		err = s.checkListed(ctx, b)
	}
	if err != nil {
		s.removeFiles(&layer{info: Info{ID: b.spec.ID, Manifest: b.spec.Manifest, Index: b.spec.Index}})
	}
	return err
}

// fetchChain brings the indexes of a chain into temporary files, which are gone after
// done.
func (s *Store) fetchChain(ctx context.Context, chain []ImportSpec, open OpenBlobFunc) (out []fetchedFile, done func(), err error) {
	files := make([]*durable.File, len(chain))
	done = func() {
		for _, f := range files {
			if f != nil {
				f.Abort()
			}
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pullers)
	for i := range chain {
		g.Go(func() (err error) {
			files[i], err = s.fetchIndexFile(ctx, &chain[i], open)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		done()
		return nil, nil, err
	}
	for i := range chain {
		out = append(out, fetchedFile{&chain[i], files[i]})
	}
	return out, done, nil
}

// keepTree puts manifest and index where they belong. That of a chain is made.
func (s *Store) keepTree(ctx context.Context, b *brought, chain []fetchedFile) error {
	d := b.spec.Manifest
	s.named.claim(b.spec.ID, d)
	if err := b.parts.write(ctx, s, d); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := fileDigest(s.manifestPath(d), "manifest", d); err != nil {
		return err
	}
	b.ix, b.where = b.parts.ix, &pack.Places{}
	for i := len(b.parts.tables) - 1; i >= 0; i-- {
		b.where.Add(b.parts.tables[i], nil)
	}
	b.file = chain[0].file
	if len(chain) > 1 {
		newest := make([]*pack.Index, 0, len(chain))
		for i := range chain {
			newest = append(newest, b.parts.tables[len(chain)-1-i])
		}
		if err := s.foldInParts(ctx, b, newest); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	b.parts.tables = nil
	s.named.claim(b.spec.ID, b.spec.Index)
	if err := b.file.Commit(s.indexPath(b.spec.Index)); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}
