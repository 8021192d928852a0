package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

var errNoCopy = errors.New("no other copy of it is at hand")

// remakeIndex gets the index from the blob store, or makes it again from the files.
func (c *checkup) remakeIndex(ctx context.Context) (string, error) {
	var err error
	if c.in.Folded {
		err = c.refold(ctx)
	} else {
		err = c.fetchBlob(ctx, c.in.Index, c.in.IndexBytes, c.x.s.indexPath(c.in.Index))
	}
	if err == nil {
		return fromBlobStore, nil
	}
	if c.l.stored() {
		return "", err
	}
	if again := c.encodeAgain(ctx); again != nil {
		return "", fmt.Errorf("%w; %w", err, again)
	}
	return fromFiles, nil
}

// encodeAgain packs the layer anew. The same content and the same encoder make the
// same index.
func (c *checkup) encodeAgain(ctx context.Context) error {
	s := c.x.s
	m, err := s.treeFromLayer(ctx, c.l)
	if err != nil {
		return err
	}
	var base *snapshot.Manifest
	var baseDigest snapshot.Digest
	if c.in.WireBase != c.in.Base {
		return errNoCopy
	}
	if c.in.Base != "" {
		if base, err = s.Tree(ctx, c.in.Base); err != nil {
			return err
		}
		in, err := s.Lookup(c.in.Base)
		if err != nil {
			return err
		}
		baseDigest = in.Manifest
	}
	changes := tree.Diff(base, m)
	if err := s.fillKnown(ctx, c.l, changes); err != nil {
		return err
	}
	ix, _, err := pack.Encode(ctx, s.encoder(c.l.key, s.locate(s.ancestors(c.l)).find, previous(base)), changes)
	if err != nil {
		return err
	}
	defer c.dropUnnamed(ix)
	after, err := tree.Apply(base, ix.Changes)
	if err != nil {
		return err
	}
	ix.Base = baseDigest
	if ix.Manifest, err = pack.ManifestDigest(after); err != nil {
		return err
	}
	if ix.Manifest != c.in.Manifest {
		return &snapshot.CorruptError{What: "layer", Name: string(c.in.ID), Why: "its files are not what was sealed"}
	}
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	d, err := pack.WriteIndex(w, ix)
	if err == nil {
		err = w.Flush()
	}
	switch {
	case err != nil:
		return err
	case d != c.in.Index:
		return errors.New("made again it is another index")
	}
	return c.replace(f, s.indexPath(d))
}

// dropUnnamed lets the packs go that Encode made and nobody needs.
func (c *checkup) dropUnnamed(ix *pack.Index) {
	s := c.x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ix.Packs {
		if _, here := s.have[p.Digest]; p.Own && !here {
			s.stale = append(s.stale, p.Digest)
		}
	}
	s.pokeLocked()
}

// remakeManifest computes the manifest from the index and what that is against.
func (c *checkup) remakeManifest(ctx context.Context) (string, error) {
	s := c.x.s
	var base *snapshot.Manifest
	if c.in.WireBase != "" {
		var err error
		if base, err = s.Tree(ctx, c.in.WireBase); err != nil {
			return "", err
		}
	}
	m, err := tree.Apply(base, c.ix.Changes)
	if err != nil {
		return "", err
	}
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return "", err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	d, err := pack.WriteManifest(w, m)
	if err == nil {
		err = w.Flush()
	}
	switch {
	case err != nil:
		return "", err
	case d != c.in.Manifest:
		return "", &snapshot.CorruptError{What: "manifest", Name: c.in.Manifest.String(), Why: "the index makes " + d.String()}
	}
	return fromIndex, c.replace(f, s.manifestPath(d))
}
