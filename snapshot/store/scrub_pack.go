package store

import (
	"bufio"
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// remakePack gets a pack from the blob store, or makes it again from the files of the
// layer that made it.
func (c *checkup) remakePack(ctx context.Context, d snapshot.Digest) (string, error) {
	s := c.x.s
	path := s.packPath(d)
	i := slices.IndexFunc(c.l.packs, func(p pack.Pack) bool { return p.Digest == d })
	if i < 0 {
		return "", errNoCopy
	}
	err := s.rebuildPack(ctx, d, path)
	if err == nil {
		return fromFiles, nil
	}
	if ctx.Err() != nil {
		return "", err
	}
	fetched := c.fetchBlob(ctx, d, c.l.packs[i].Bytes, path)
	if fetched == nil {
		s.addBlob(d, path, c.l.packs[i].Bytes)
		return fromBlobStore, nil
	}
	// What can't be had any more must not be offered either.
	if qerr := s.quarantine(path); qerr != nil {
		return "", qerr
	}
	s.mu.Lock()
	delete(s.have, d)
	s.mu.Unlock()
	return "", fmt.Errorf("%w; %w", err, fetched)
}

// rebuildPack makes a pack again from the files of the layer that made it.
func (s *Store) rebuildPack(ctx context.Context, d snapshot.Digest, path string) error {
	owner, p := s.makerOf(d)
	if owner == nil {
		return errNoCopy
	}
	ix, err := s.readIndex(owner.info.Index)
	if err != nil {
		return err
	}
	m, err := s.readManifest(owner.info.Manifest)
	if err != nil {
		return err
	}
	if err := s.readSources(owner.info.ID, owner.info.Manifest, m); err != nil {
		return err
	}
	at := map[snapshot.Digest]foundChunk{}
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Source == "" {
			continue
		}
		for _, ch := range e.Chunks {
			at[ch.ID] = foundChunk{e, ch}
		}
	}
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	err = pack.Rebuild(ctx, ix, d, owner.key, w, func(id snapshot.Digest) (*snapshot.Entry, snapshot.Chunk, bool) {
		c, ok := at[id]
		return c.e, c.c, ok
	})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	if err := s.replace(f, path); err != nil {
		return err
	}
	s.addBlob(d, path, p.Bytes)
	return nil
}

type foundChunk struct {
	e *snapshot.Entry
	c snapshot.Chunk
}

// makerOf returns the layer that made a pack, if its files are here. Of a chain that was
// fetched for its last tree only what that shows is here, which may be less than all.
func (s *Store) makerOf(d snapshot.Digest) (best *layer, of pack.Pack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		if l.stored() || l.info.Index.IsZero() || l.removing || best != nil && l.below > 0 {
			continue
		}
		for _, p := range l.packs {
			if p.Own && p.Digest == d {
				best, of = l, p
			}
		}
	}
	return best, of
}

// Reoffer sees to it that a blob that the blob store lost can be read here, and
// returns the layer to be uploaded with it. A pack of a durable layer is made again
// from the layer's files. snapshot.ErrNotFound says that no layer here made it. When
// it is uploaded, MarkDurable lets go of the pack.
func (s *Store) Reoffer(ctx context.Context, lost snapshot.Digest) (Info, error) {
	l := s.sourceOfBlob(lost)
	if l == nil {
		return Info{}, fmt.Errorf("blob %s: %w", lost, snapshot.ErrNotFound)
	}
	defer s.reading()()
	release, err := s.hold(ctx, l.info.ID)
	if err != nil {
		return Info{}, err
	}
	defer release()
	if !s.needs(lost) {
		if err := s.rebuildPack(ctx, lost, s.packPath(lost)); err != nil {
			return Info{}, fmt.Errorf("snapshot %s: %w", l.info.ID, err)
		}
	}
	return s.Lookup(l.info.ID)
}

// sourceOfBlob returns a layer that made a pack, or whose index it is, and which
// can be uploaded.
func (s *Store) sourceOfBlob(d snapshot.Digest) (best *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		if l.info.Index.IsZero() || !l.info.State.Usable() || l.removing || best != nil && l.below > 0 {
			continue
		}
		if l.info.Index == d || slices.ContainsFunc(l.packs, func(p pack.Pack) bool { return p.Own && p.Digest == d }) {
			best = l
		}
	}
	return best
}
