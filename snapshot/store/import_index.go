package store

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// fetchIndex brings the index blob into a temporary file, checks it and reads it.
func (s *Store) fetchIndex(ctx context.Context, spec *ImportSpec, open OpenBlobFunc) (*durable.File, *pack.Index, error) {
	f, err := s.fetchIndexFile(ctx, spec, open)
	if err != nil {
		return nil, nil, err
	}
	ix, err := fetchedIndex(f, spec)
	if err != nil {
		f.Abort()
		return nil, nil, err
	}
	return f, ix, nil
}

// fetchIndexFile is fetchIndex for who does not want it in memory.
func (s *Store) fetchIndexFile(ctx context.Context, spec *ImportSpec, open OpenBlobFunc) (*durable.File, error) {
	if spec.IndexBytes <= 0 || spec.IndexBytes > maxIndexBytes {
		return nil, fmt.Errorf("index %s: %d bytes is no size for an index", spec.Index, spec.IndexBytes)
	}
	r, err := open(ctx, spec.Index, 0, spec.IndexBytes)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", spec.Index, err)
	}
	defer r.Close()
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return nil, err
	}
	if err := copyIndex(f, r, spec); err != nil {
		f.Abort()
		return nil, err
	}
	return f, nil
}

func copyIndex(f *durable.File, r io.Reader, spec *ImportSpec) error {
	n, err := io.Copy(f, io.LimitReader(r, spec.IndexBytes))
	if err != nil {
		return fmt.Errorf("index %s: %w", spec.Index, err)
	}
	if n != spec.IndexBytes {
		return fmt.Errorf("index %s: %d of %d bytes came: %w", spec.Index, n, spec.IndexBytes, io.ErrUnexpectedEOF)
	}
	return fileDigest(f.Name(), "index", spec.Index)
}

// fetchedIndex reads what fetchIndexFile has fetched.
func fetchedIndex(f *durable.File, spec *ImportSpec) (*pack.Index, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("index %s: %w", spec.Index, err)
	}
	return decodeIndex(bufio.NewReaderSize(f, 1<<20), spec.Index)
}

// checkIndex compares what the index says of itself with what was asked for.
func (s *Store) checkIndex(spec *ImportSpec, ix *pack.Index) error {
	base, err := s.manifestOf(spec.Base)
	if err != nil {
		return err
	}
	return checkAgainst(spec, ix, base)
}

// checkAgainst is checkIndex for who knows the manifest of the base.
func checkAgainst(spec *ImportSpec, ix *pack.Index, base snapshot.Digest) error {
	if ix.Base != base || ix.Manifest != spec.Manifest {
		return &snapshot.CorruptError{What: "index", Name: spec.Index.String(), Why: fmt.Sprintf(
			"it turns %s into %s, want %s into %s", ix.Base, ix.Manifest, base, spec.Manifest)}
	}
	return nil
}
