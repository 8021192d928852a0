package view

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// stamp records inode and ctime of every file, and returns when the clock of the
// file system has moved on: what is written from now on gets another ctime. have is
// what is known already, nil if nothing is.
func (d *Copy) stamp(ctx context.Context, id snapshot.ID, dir string, have map[uint64]stamp) (*copyMeta, error) {
	m := &copyMeta{stamps: have}
	if have == nil {
		m.stamps = map[uint64]stamp{}
		if err := m.walk(ctx, dir); err != nil {
			return nil, err
		}
	}
	_, ino, _, err := tree.Lstat(dir, "", tree.ScanOptions{})
	var un *snapshot.UnsupportedError
	if err != nil && !errors.As(err, &un) {
		return nil, err
	}
	m.root = ino.Ino
	latest := int64(0)
	for _, s := range m.stamps {
		latest = max(latest, s.ctime)
	}
	if latest == 0 {
		return m, nil
	}
	probe := filepath.Join(d.dir(id), "clock")
	defer os.Remove(probe) //nolint:errcheck // empty
	for range 1000 {
		if err := os.WriteFile(probe, []byte{0}, 0o600); err != nil {
			return nil, err
		}
		_, ino, _, err := tree.Lstat(d.dir(id), "clock", tree.ScanOptions{})
		if err != nil || ino.CTime > latest {
			return m, err
		}
		if err := d.o.Sleep(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	// A clock that stands still proves nothing: all files may have changed.
	m.stamps = map[uint64]stamp{}
	return m, nil
}

// walk takes the stamps of a tree that is there.
func (m *copyMeta) walk(ctx context.Context, dir string) error {
	return tree.Walk(ctx, dir, tree.ScanOptions{}, func(it *tree.Item) error {
		if it.Entry.Type == snapshot.TypeFile && it.Inode.CTime != 0 {
			if _, ok := m.stamps[it.Inode.Ino]; !ok {
				m.stamps[it.Inode.Ino] = stamp{it.Inode.CTime, it.Entry.Path}
			}
		}
		return nil
	})
}

// Changes implements Driver. Files that have the stamp they were handed over with
// are as in base, wherever they are now; all others may have changed.
func (d *Copy) Changes(ctx context.Context, l *Layer, base *snapshot.Manifest) ([]snapshot.Change, error) {
	if err := checkLayer(l); err != nil {
		return nil, err
	}
	if base == nil {
		base = &snapshot.Manifest{}
	}
	m, err := d.readMeta(l.ID)
	if errors.Is(err, fs.ErrNotExist) {
		m = &copyMeta{} // unpacked: no job has seen it
	} else if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", l.ID, err)
	}
	real, err := d.readModes(l.ID)
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", l.ID, err)
	}
	var entries []snapshot.Entry
	var groups []string
	err = tree.Walk(ctx, d.abs(l.Dir), tree.ScanOptions{Owners: d.owners}, func(it *tree.Item) error {
		e := it.Entry
		if it.Inode.Char {
			return &snapshot.UnsupportedError{Path: e.Path, What: "character device"}
		}
		if len(it.Special) > 0 {
			return &snapshot.UnsupportedError{Path: e.Path, What: "extended attribute " + it.Special[0].Name}
		}
		e.Mode = real.real(e.Path, e.Mode)
		group := ""
		if e.Type == snapshot.TypeFile {
			if s, ok := m.stamps[it.Inode.Ino]; ok && s.ctime == it.Inode.CTime {
				if b, ok := base.Find(s.path); ok && b.Type == e.Type && b.Size == e.Size {
					e.Source, e.SourceAt, e.Chunks = b.Source, b.SourceAt, b.Chunks
				}
			}
			if it.Inode.Nlink > 1 {
				group = fmt.Sprintf("%d:%d", it.Inode.Dev, it.Inode.Ino)
			}
		}
		entries, groups = append(entries, e), append(groups, group)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", l.ID, err)
	}
	return tree.Diff(base, &snapshot.Manifest{Entries: nameGroups(entries, groups)}), nil
}
