package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Entries calls fn for each entry of a packed snapshot's tree, in the order of a
// manifest, the root first. What fn is given is its own until it returns. An error of fn
// ends it and is returned as it is.
func (s *Store) Entries(ctx context.Context, id snapshot.ID, fn func(e *snapshot.Entry) error) error {
	defer s.reading()()
	release, err := s.Hold(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	s.mu.Lock()
	l, err := s.usableLocked(id)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	defer lean(int(l.info.Entries))()
	t, err := s.openTree(ctx, l)
	if err != nil {
		return err
	}
	defer t.close()
	return t.each(ctx)(fn)
}

// ErrNoFile says that what was asked for is there, and is no regular file.
var ErrNoFile = errors.New("not a regular file")

// WriteFile writes the content of one file of a packed snapshot to w, after all of it
// was found to be right. It needs room for the file in the store meanwhile. Where there
// is nothing it is a *NoPathError, where there is something else ErrNoFile.
func (s *Store) WriteFile(ctx context.Context, id snapshot.ID, path string, w io.Writer) error {
	defer s.reading()()
	release, err := s.Hold(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	from, err := s.newWriting(ctx, id)
	if err != nil {
		return err
	}
	defer from.close()
	from.only, from.progress = newSelection([]string{path}), &Progress{}
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "cat-*")
	if err != nil {
		return err
	}
	defer removeFile(f.Name(), s.log)
	defer f.Close()
	err = from.parts(ctx, func(ctx context.Context) error {
		at := slices.IndexFunc(from.ix.Changes, func(c snapshot.Change) bool { return c.Entry.Path == path })
		if at < 0 { // directories that lead there
			return nil
		}
		e := &from.ix.Changes[at].Entry
		if e.Type != snapshot.TypeFile {
			return fmt.Errorf("%q is a %s: %w", path, e.Type, ErrNoFile)
		}
		if err := f.Truncate(e.Size); err != nil {
			return err
		}
		put := func(_ int, off int64, p []byte) error {
			_, err := f.WriteAt(p, off)
			return err
		}
		return from.extract(ctx, put, func(int) error { return nil })
	})
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	_, err = io.Copy(w, f)
	return err
}
