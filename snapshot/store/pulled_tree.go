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

// pulledTree is what an index that was fetched makes, which was compared with what was
// asked for: a tree in memory or, of a large one, the draft of its manifest.
type pulledTree struct {
	ix    *pack.Index // without changes, if there is a draft
	sum   totals
	m     *snapshot.Manifest
	draft *durable.File
}

func (t *pulledTree) abort() {
	if t.draft != nil {
		t.draft.Abort()
	}
}

// write makes manifests/<d>, unless it is there.
func (t *pulledTree) write(ctx context.Context, s *Store, d snapshot.Digest) error {
	if t.m != nil {
		return s.writeManifest(ctx, t.m, d)
	}
	if absent, err := isAbsent(s.manifestPath(d)); err != nil || !absent {
		return err
	}
	return t.draft.Commit(s.manifestPath(d))
}

// pulledTree makes the tree of the index in f.
func (s *Store) pulledTree(ctx context.Context, spec *ImportSpec, f *durable.File) (*pulledTree, error) {
	t, err := s.pulledInParts(ctx, spec, f.Name())
	if t != nil || err != nil && !errors.Is(err, errUnlike) {
		return t, err
	}
	ix, err := fetchedIndex(f, spec)
	if err != nil {
		return nil, err
	}
	if err := s.checkIndex(spec, ix); err != nil {
		return nil, err
	}
	var base *snapshot.Manifest
	if spec.Base != "" {
		if base, err = s.Tree(ctx, spec.Base); err != nil {
			return nil, err
		}
	}
	m, err := tree.Apply(base, ix.Changes)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", spec.Index, err)
	}
	if d, err := pack.ManifestDigest(m); err != nil || d != spec.Manifest {
		return nil, errors.Join(err, &snapshot.CorruptError{
			What: "index", Name: spec.Index.String(),
			Why: fmt.Sprintf("it makes the tree %s, want %s", d, spec.Manifest),
		})
	}
	return &pulledTree{ix: ix, m: m, sum: totals{m.Bytes(), int64(len(m.Entries))}}, nil
}

// pulledInParts is pulledTree without anything of the tree in memory. It is nil of a
// small one; and errUnlike says that only the whole tree can tell.
func (s *Store) pulledInParts(ctx context.Context, spec *ImportSpec, path string) (*pulledTree, error) {
	t := &pulledTree{}
	large, err := s.eachPulled(ctx, spec, path, t, func(e *snapshot.Entry) error {
		t.sum.add(e)
		return nil
	})
	if err != nil || !large {
		return nil, err
	}
	defer lean(int(t.sum.entries))()
	if t.draft, err = durable.Create(filepath.Join(s.dir, "tmp")); err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(t.draft, 1<<20)
	w, err := pack.NewManifestWriter(out, int(t.sum.entries))
	if err == nil {
		_, err = s.eachPulled(ctx, spec, path, t, w.Append)
	}
	var d snapshot.Digest
	if err == nil {
		d, err = w.Close()
	}
	if err == nil && d != spec.Manifest {
		err = errUnlike
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		t.abort()
		return nil, err
	}
	return t, nil
}

// eachPulled calls fn for what the index at path makes, if that is large.
func (s *Store) eachPulled(ctx context.Context, spec *ImportSpec, path string, t *pulledTree, fn func(e *snapshot.Entry) error) (large bool, err error) {
	x, err := openIndexAt(path, spec.Index)
	if err != nil {
		return false, err
	}
	defer x.Close() //nolint:errcheck // only read
	if !s.isLarge(spec.Base, x.Len()) {
		return false, nil
	}
	if err := s.checkIndex(spec, x.Tables); err != nil {
		return false, err
	}
	t.ix = x.Tables
	if err := s.eachMade(ctx, spec.Base, x, fn); err != nil {
		return false, fmt.Errorf("index %s: %w", spec.Index, err)
	}
	return true, nil
}

// isLarge reports whether a tree of n entries and those of base is not to be in memory.
func (s *Store) isLarge(base snapshot.ID, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[base]; l != nil {
		n += int(l.info.Entries)
	}
	return s.fewer > 0 || n > s.o.CacheEntries
}
