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
	ix     *pack.Index // without changes, if there is a draft
	sum    totals
	tables []*pack.Index // with a draft: those of the chain
	listed int           // changes of the last of them
	m      *snapshot.Manifest
	draft  *durable.File
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
	t, err := s.pulledInParts(ctx, spec, f)
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
func (s *Store) pulledInParts(ctx context.Context, spec *ImportSpec, f *durable.File) (*pulledTree, error) {
	x, err := openIndexAt(f.Name(), spec.Index)
	if err != nil {
		return nil, err
	}
	large := s.isLarge(spec.Base, x.Len())
	x.Close() //nolint:errcheck // only read
	if !large {
		return nil, nil //nolint:nilnil // as promised
	}
	return s.treeInParts(ctx, []fetchedFile{{spec, f}})
}

// fetchedFile is an index that is here, and what was asked for.
type fetchedFile struct {
	spec *ImportSpec
	file *durable.File
}

// treeInParts makes the tree of a chain of indexes on the base of the first.
func (s *Store) treeInParts(ctx context.Context, chain []fetchedFile) (*pulledTree, error) {
	t := &pulledTree{}
	var err error
	if t.draft, err = durable.Create(filepath.Join(s.dir, "tmp")); err != nil {
		return nil, err
	}
	if err := s.writeDraft(ctx, chain, t); err != nil {
		t.abort()
		return nil, err
	}
	return t, nil
}

// writeDraft writes the manifest.
func (s *Store) writeDraft(ctx context.Context, chain []fetchedFile, t *pulledTree) error {
	n := 0
	if len(chain) > 1 || chain[0].spec.Base != "" { // else all that it has is listed
		if err := s.eachPulled(ctx, chain, t, func(*snapshot.Entry) error { n++; return nil }); err != nil {
			return err
		}
	}
	out := bufio.NewWriterSize(t.draft, 1<<20)
	var w *pack.ManifestWriter
	done := func() {}
	err := s.eachPulled(ctx, chain, t, func(e *snapshot.Entry) (err error) {
		if w == nil {
			if n == 0 {
				n = t.listed
			}
			done = lean(n)
			if w, err = pack.NewManifestWriter(out, n); err != nil {
				return err
			}
		}
		t.sum.add(e)
		return w.Append(e)
	})
	done()
	if err != nil {
		return err
	}
	if w == nil || t.sum.entries != int64(n) {
		return errUnlike
	}
	if d, err := w.Close(); err != nil {
		return err
	} else if d != chain[len(chain)-1].spec.Manifest {
		return errUnlike
	}
	return out.Flush()
}

// eachPulled calls fn for what the indexes make, whose tables it leaves in t.
func (s *Store) eachPulled(ctx context.Context, chain []fetchedFile, t *pulledTree, fn func(e *snapshot.Entry) error) error {
	base := chain[0].spec.Base
	before, err := s.manifestOf(base)
	if err != nil {
		return err
	}
	t.tables = nil
	var xs []*indexFile
	for _, f := range chain {
		x, err := openIndexAt(f.file.Name(), f.spec.Index)
		if err != nil {
			return err
		}
		defer x.Close() //nolint:errcheck // only read
		if err := checkAgainst(f.spec, x.Tables, before); err != nil {
			return err
		}
		t.listed = x.Len()
		before, xs, t.tables = f.spec.Manifest, append(xs, x), append(t.tables, x.Tables)
	}
	t.ix = t.tables[len(t.tables)-1]
	if err := s.eachMadeOf(ctx, base, xs, func(e *snapshot.Entry, _ bool) error { return fn(e) }); err != nil {
		return fmt.Errorf("index %s: %w", chain[len(chain)-1].spec.Index, err)
	}
	return nil
}

// manifestOf is the manifest of a layer, zero of "".
func (s *Store) manifestOf(id snapshot.ID) (snapshot.Digest, error) {
	if id == "" {
		return snapshot.Digest{}, nil
	}
	in, err := s.Lookup(id)
	return in.Manifest, err
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
