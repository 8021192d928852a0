package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// treeFile is a tree that is read entry by entry.
type treeFile struct {
	r *pack.ManifestReader
	f *os.File
	d snapshot.Digest

	m  *snapshot.Manifest // instead of a file: a tree that is in memory
	at int
}

// openManifest begins to read a manifest of this store, which was found to be the one
// asked for; at its end it is found to be that once more. Its files have no Source.
func (s *Store) openManifest(d snapshot.Digest) (*treeFile, error) {
	if err := fileDigest(s.manifestPath(d), "manifest", d); err != nil {
		return nil, err
	}
	f, size, err := openSized(s.manifestPath(d))
	if err != nil {
		return nil, lost("manifest", d, err)
	}
	t := &treeFile{f: f, d: d}
	if t.r, err = pack.NewManifestReader(bufio.NewReaderSize(f, 1<<20), size); err != nil {
		f.Close() //nolint:errcheck // only read
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	return t, nil
}

// openTree begins to read the tree of a packed layer: from the manifest, if that says
// all and the tree is not in memory anyhow.
func (s *Store) openTree(ctx context.Context, l *layer) (*treeFile, error) {
	s.mu.Lock()
	id, d, stored := l.info.ID, l.info.Manifest, l.stored()
	s.mu.Unlock()
	if m, ok := s.trees.get(id); stored && !ok {
		return s.openManifest(d)
	} else if stored {
		return &treeFile{m: m}, nil
	}
	m, err := s.Tree(ctx, id)
	if err != nil {
		return nil, err
	}
	return &treeFile{m: m}, nil
}

// next fills in e with the next entry; io.EOF behind the last one says that all was
// right.
func (t *treeFile) next(e *snapshot.Entry) error {
	if t.m != nil {
		if t.at == len(t.m.Entries) {
			return io.EOF
		}
		*e = t.m.Entries[t.at]
		t.at++
		return nil
	}
	err := t.r.Next(e)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("manifest %s: %w", t.d, err)
	case t.r.Digest() != t.d:
		return &snapshot.CorruptError{What: "manifest", Name: t.d.String(), Why: "its digest is " + t.r.Digest().String()}
	}
	return err
}

// left is how many entries are to come.
func (t *treeFile) left() int {
	if t.m != nil {
		return len(t.m.Entries) - t.at
	}
	return t.r.Len()
}

func (t *treeFile) close() {
	if t.f != nil {
		t.f.Close() //nolint:errcheck // only read
	}
}
