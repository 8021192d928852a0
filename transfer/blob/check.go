package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// Each calls f for every blob, in the order of digests, until it returns an error.
// Blobs that come or go meanwhile may be missed. Names that are no digests, or lie in
// the wrong directory, are not blobs.
func (s *Dir) Each(ctx context.Context, f func(d snapshot.Digest, size int64) error) error {
	for i := range s.shards {
		if err := s.each(ctx, byte(i), f); err != nil {
			return err
		}
	}
	return nil
}

// each is Each of one shard.
func (s *Dir) each(ctx context.Context, shard byte, f func(d snapshot.Digest, size int64) error) error {
	names, err := os.ReadDir(s.shardDir(shard))
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	for _, n := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d, err := snapshot.ParseDigest(n.Name())
		if err != nil || d[0] != shard {
			continue
		}
		fi, err := n.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		if err := f(d, fi.Size()); err != nil {
			return err
		}
	}
	return nil
}

// Check reads a blob whole and compares it with its digest. One that differs, or can't
// be read to its end, is a *snapshot.CorruptError and is moved to bad/: from then on it
// is not there, so that whoever has it can put it again.
func (s *Dir) Check(ctx context.Context, d snapshot.Digest) error {
	f, err := os.Open(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(d)
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	err = copyVerified(ctx, io.Discard, f, d, fi.Size())
	if err == nil || ctx.Err() != nil {
		return err
	}
	f.Close() //nolint:errcheck // only read from; some systems don't move open files
	var bad *snapshot.CorruptError
	if !errors.As(err, &bad) {
		err = corrupt(d, err.Error())
	}
	if qerr := s.quarantine(d, fi); qerr != nil {
		return errors.Join(err, qerr)
	}
	return err
}

// quarantine moves the file that was found bad, unless a good one took its place.
func (s *Dir) quarantine(d snapshot.Digest, found fs.FileInfo) error {
	sh := &s.shards[d[0]]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now, err := os.Lstat(s.path(d))
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(now, found)) {
		return nil
	}
	bad := filepath.Join(s.dir, "bad")
	if err := durable.MkdirAll(bad, 0o700); err != nil {
		return fmt.Errorf("quarantine blob %s: %w", d, err)
	}
	if err := durable.Rename(s.path(d), filepath.Join(bad, d.String())); err != nil {
		return fmt.Errorf("quarantine blob %s: %w", d, err)
	}
	return nil
}
