package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// fetchBlob brings a blob from the blob store into place.
func (c *checkup) fetchBlob(ctx context.Context, d snapshot.Digest, size int64, path string) error {
	if c.x.o.Open == nil {
		return errNoCopy
	}
	r, err := c.x.o.Open(ctx, d, 0, size)
	if err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	defer r.Close()
	f, err := durable.Create(filepath.Join(c.x.s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := io.Copy(f, io.LimitReader(r, size)); err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	if err := fileDigest(f.Name(), "blob", d); err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	return c.replace(f, path)
}

func (c *checkup) replace(f *durable.File, path string) error { return c.x.s.replace(f, path) }

// replace puts a good file in the place of a damaged one, which is kept in bad/.
func (s *Store) replace(f *durable.File, path string) error {
	fail.Point("store.scrub.remade")
	if err := s.quarantine(path); err != nil {
		return err
	}
	fail.Point("store.scrub.quarantined")
	return f.Commit(path)
}

// quarantine moves a damaged file out of the way, to bad/.
func (s *Store) quarantine(path string) error {
	bad := filepath.Join(s.dir, badDir)
	if err := durable.MkdirAll(bad, 0o700); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	now := s.o.Now()
	if err := os.Chtimes(path, now, now); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := durable.Rename(path, filepath.Join(bad, filepath.Base(filepath.Dir(path))+"-"+filepath.Base(path)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("quarantine: %w", err)
	}
	return nil
}

// badDir has what was found damaged, for people; Open deletes it after a while.
const badDir = "bad"
