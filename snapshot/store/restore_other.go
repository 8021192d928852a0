//go:build !linux

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// deviceOf knows nothing here.
func deviceOf(fs.FileInfo) (uint64, bool) { return 0, false }

// beginPartial makes the directory that a restore writes to, in place of one that
// a killed restore has left.
func beginPartial(partial, _ string) (done func(), err error) {
	if err := dropPartial(partial); err != nil {
		return nil, err
	}
	return func() {}, os.Mkdir(partial, 0o700)
}

// to writes the tree by the portable calls of os.Root, which never leave dir:
// plain entries, without attributes and owners.
func (w *writing) to(ctx context.Context, dir string, parts inParts) error {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	var dirs []snapshot.Entry
	err = parts(ctx, func(ctx context.Context) error {
		for i := range w.ix.Changes {
			e := &w.ix.Changes[i].Entry
			if err := w.name(r, e); err != nil {
				return err
			}
			if e.Type == snapshot.TypeDir {
				dirs = append(dirs, *e)
			}
		}
		return w.fill(ctx, r)
	})
	if err != nil {
		return err
	}
	fail.Point("store.restore.filled")
	for _, e := range slices.Backward(dirs) {
		if err := w.look(r, &e); err != nil {
			return err
		}
	}
	return nil
}

// fill writes the content of a part, and makes its files look right.
func (w *writing) fill(ctx context.Context, r *os.Root) error {
	var mu sync.Mutex
	err := w.extract(ctx, func(i int, off int64, p []byte) error {
		mu.Lock()
		defer mu.Unlock()
		f, err := r.OpenFile(filepath.FromSlash(w.ix.Changes[i].Entry.Path), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(p, off)
		return errors.Join(err, f.Close())
	}, nil)
	if err != nil {
		return err
	}
	for i := range w.ix.Changes {
		e := &w.ix.Changes[i].Entry
		if e.Type != snapshot.TypeFile {
			continue
		}
		if e.Link != "" && e.Link != e.Path {
			if err := r.Link(filepath.FromSlash(e.Link), filepath.FromSlash(e.Path)); err != nil {
				return err
			}
		}
		if err := w.look(r, e); err != nil {
			return err
		}
	}
	return nil
}

// name makes one entry, empty.
func (w *writing) name(r *os.Root, e *snapshot.Entry) error {
	path := filepath.FromSlash(e.Path)
	switch {
	case e.Path == "":
		return nil
	case e.Type == snapshot.TypeDir:
		return snapshot.Taken(r.Mkdir(path, 0o700))
	case e.Type == snapshot.TypeSymlink:
		return snapshot.Taken(r.Symlink(e.Target, path))
	case e.Type != snapshot.TypeFile:
		return &snapshot.UnsupportedError{Path: e.Path, What: e.Type.String() + " on this system"}
	case e.Link != "" && e.Link != e.Path:
		return nil
	}
	f, err := r.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%q: %w", e.Path, snapshot.Taken(err))
	}
	return errors.Join(f.Truncate(e.Size), f.Sync(), f.Close())
}

// look sets mode and time.
func (w *writing) look(r *os.Root, e *snapshot.Entry) error {
	path := filepath.FromSlash(e.Path)
	if path == "" {
		path = "."
	}
	if err := r.Chmod(path, fs.FileMode(e.Mode&0o777)); err != nil {
		return err
	}
	at := time.Unix(0, e.MTime)
	return r.Chtimes(path, at, at)
}
