package view

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/tree"
)

// settle returns when the clock of the file system has moved on since the last of w's
// stamps: what is written from now on gets another ctime. What it returns is to be the
// view's meta; it is closed by whoever has closed w.
func (d *Copy) settle(ctx context.Context, id snapshot.ID, w *metaWriter, m *copyMeta) (*metaWriter, error) {
	if w.latest == 0 {
		return w, nil
	}
	probe := filepath.Join(d.dir(id), "clock")
	defer os.Remove(probe) //nolint:errcheck // empty
	for range 1000 {
		if err := os.WriteFile(probe, []byte{0}, 0o600); err != nil {
			return w, err
		}
		_, ino, _, err := tree.Lstat(d.dir(id), "clock", tree.ScanOptions{})
		if err != nil || ino.CTime > w.latest {
			return w, err
		}
		if err := d.o.Sleep(ctx, time.Millisecond); err != nil {
			return w, err
		}
	}
	// A clock that stands still proves nothing: all files may have changed.
	w.abort()
	return d.newMeta(id, m)
}

// copiedItem is an entry of a copy, as its job left it.
type copiedItem struct {
	entry snapshot.Entry
	// from is the path at which the file was handed out, if that is known and it was not
	// touched since.
	from   string
	known  bool
	linked bool // it has several names, here or elsewhere
	ino    inodeKey
}

// eachCopied calls fn for each entry of l's tree, in the order of a manifest. Link is not
// filled in.
func (d *Copy) eachCopied(ctx context.Context, l *Layer, fn func(it *copiedItem) error) error {
	stamps, err := d.openStamps(l.ID)
	if err != nil {
		return err
	}
	defer stamps.close()
	real, err := d.readModes(l.ID)
	if err != nil {
		return err
	}
	n := 0
	return tree.Walk(ctx, d.abs(l.Dir), tree.ScanOptions{Owners: d.owners}, func(it *tree.Item) error {
		if n%256 == 0 {
			quiet.Step(ctx)
		}
		n++
		c := copiedItem{entry: it.Entry}
		e := &c.entry
		if it.Inode.Char {
			return &snapshot.UnsupportedError{Path: e.Path, What: "character device"}
		}
		if len(it.Special) > 0 {
			return &snapshot.UnsupportedError{Path: e.Path, What: "extended attribute " + it.Special[0].Name}
		}
		e.Mode = real.real(e.Path, e.Mode)
		if e.Type == snapshot.TypeFile {
			var err error
			if c.from, c.known, err = stamps.path(it.Inode.Ino, it.Inode.CTime, e.Path); err != nil {
				return err
			}
			c.linked, c.ino = it.Inode.Nlink > 1, inodeKey{it.Inode.Dev, it.Inode.Ino}
		}
		return fn(&c)
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
	var entries []snapshot.Entry
	var groups []inodeKey
	err := d.eachCopied(ctx, l, func(it *copiedItem) error {
		e, group := it.entry, inodeKey{}
		if it.known {
			if b, ok := base.Find(it.from); ok && b.Type == e.Type && b.Size == e.Size {
				e.Source, e.SourceAt, e.Chunks = b.Source, b.SourceAt, b.Chunks
			}
		}
		if it.linked {
			group = it.ino
		}
		entries, groups = append(entries, e), append(groups, group)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", l.ID, err)
	}
	return tree.Diff(base, &snapshot.Manifest{Entries: nameGroups(entries, groups)}), nil
}
