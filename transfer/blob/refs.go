package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// MaxRefBytes bounds a ref.
const MaxRefBytes = 64 << 10

// Refs is what a Store may have beside its blobs: small notes under random ids,
// which say by which blobs a snapshot can be had. A ref never changes. What it says
// is its reader's to check.
type Refs interface {
	// PutRef keeps b under id for good. Another note that is there already is a
	// *snapshot.CorruptError.
	PutRef(ctx context.Context, id snapshot.ID, b []byte) error
	// GetRef returns what was put, or snapshot.ErrNotFound.
	GetRef(ctx context.Context, id snapshot.ID) ([]byte, error)
}

func checkRef(id snapshot.ID, b []byte) error {
	if _, err := snapshot.ParseID(string(id)); err != nil {
		return fmt.Errorf("ref: %w", err)
	}
	if len(b) > MaxRefBytes {
		return fmt.Errorf("ref %s: %d bytes, a ref has at most %d", id, len(b), MaxRefBytes)
	}
	return nil
}

func noRef(id snapshot.ID) error { return fmt.Errorf("ref %s: %w", id, snapshot.ErrNotFound) }

// otherRef says that an id is taken.
func otherRef(id snapshot.ID) error {
	return &snapshot.CorruptError{What: "ref", Name: string(id), Why: "there is another one under this id"}
}

// readRef reads a bounded ref.
func readRef(id snapshot.ID, r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxRefBytes+1))
	if err != nil {
		return nil, fmt.Errorf("ref %s: %w", id, err)
	}
	if len(b) > MaxRefBytes {
		return nil, &snapshot.CorruptError{What: "ref", Name: string(id), Why: fmt.Sprintf("more than %d bytes", MaxRefBytes)}
	}
	return b, nil
}

func (s *Dir) refPath(id snapshot.ID) string { return filepath.Join(s.dir, "refs", string(id)) }

// PutRef implements Refs, in refs/ beside the blobs.
//
// Crash states, in order: a file in tmp/; renamed and not synced, which nobody was
// told of; durable.
func (s *Dir) PutRef(ctx context.Context, id snapshot.ID, b []byte) error {
	if err := checkRef(id, b); err != nil {
		return err
	}
	have, err := s.GetRef(ctx, id)
	switch {
	case err == nil && bytes.Equal(have, b):
		return durable.SyncDir(filepath.Join(s.dir, "refs"))
	case err == nil:
		return otherRef(id)
	case !errors.Is(err, snapshot.ErrNotFound):
		return err
	}
	if err := durable.MkdirAll(filepath.Join(s.dir, "refs"), 0o700); err != nil {
		return mapFull(fmt.Errorf("ref %s: %w", id, err))
	}
	f, err := durable.Create(s.tmp())
	if err != nil {
		return mapFull(fmt.Errorf("ref %s: %w", id, err))
	}
	defer f.Abort()
	if _, err := f.Write(b); err != nil {
		return mapFull(fmt.Errorf("ref %s: %w", id, err))
	}
	if err := f.Commit(s.refPath(id)); err != nil {
		return mapFull(fmt.Errorf("ref %s: %w", id, err))
	}
	fail.Point("blob.ref.committed")
	return nil
}

// GetRef implements Refs.
func (s *Dir) GetRef(_ context.Context, id snapshot.ID) ([]byte, error) {
	if err := checkRef(id, nil); err != nil {
		return nil, err
	}
	f, err := os.Open(s.refPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noRef(id)
	}
	if err != nil {
		return nil, fmt.Errorf("ref %s: %w", id, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	return readRef(id, f)
}
