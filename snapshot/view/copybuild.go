package view

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// build makes the view's tree at dir and writes down what it looked like.
func (d *Copy) build(ctx context.Context, spec Spec, dir, target string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	b, err := newBuilder(dir, d.owners, spec.Meter)
	if err != nil {
		return err
	}
	defer b.p.close()
	b.content = d.content
	m := &copyMeta{target: target}
	if m.root, err = rootInode(dir); err != nil {
		return err
	}
	w, err := d.newMeta(spec.ID, m)
	if err != nil {
		return err
	}
	defer func() { w.abort() }()
	if spec.Base != nil && spec.Fanin == nil {
		b.stamps = w
	}
	if err := d.cloneBase(ctx, b, spec.Base, spec.UID, spec.GID); err != nil {
		return err
	}
	if spec.Fanin != nil {
		changes, err := spec.Fanin.Changes.List() // its trees are in memory anyhow
		if err != nil {
			return err
		}
		err = b.apply(ctx, d.layout, changes, func(_ int, e *snapshot.Entry) error {
			return b.place(e, func(f *os.File) error {
				if e.Size == 0 {
					return nil
				}
				if e.Source == "" {
					return &snapshot.CorruptError{What: "merged tree", Name: e.Path, Why: "its content is not on this host"}
				}
				return d.source(ctx, f, e, spec.Meter)
			})
		})
		if err != nil {
			return fmt.Errorf("merged tree: %w", err)
		}
	}
	if b.stamps == nil {
		if err := w.walk(ctx, dir); err != nil {
			return err
		}
	}
	if w, err = d.settle(ctx, spec.ID, w, m); err != nil {
		return err
	}
	if err := b.finish(); err != nil {
		return err
	}
	return w.commit(d.layout, spec.ID)
}

// rootInode is the inode of a directory that was just made, 0 if the system has none.
func rootInode(dir string) (uint64, error) {
	_, ino, _, err := tree.Lstat(dir, "", tree.ScanOptions{})
	var un *snapshot.UnsupportedError
	if err != nil && !errors.As(err, &un) {
		return 0, err
	}
	return ino.Ino, nil
}

// source fills f with the content of e. What lies in a bundle among others can't be
// shared: its blocks are not its own.
func (d *Copy) source(ctx context.Context, f *os.File, e *snapshot.Entry, m *Meter) error {
	if e.SourceAt > 0 {
		return copySource(ctx, f, e, m)
	}
	src, err := openRegular(e.Source)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	return d.content(ctx, f, src, e.Size, m)
}

// cloneBase starts a tree: the base's, or an empty one.
func (d *Copy) cloneBase(ctx context.Context, b *builder, base *Layer, uid, gid int) error {
	if base == nil {
		e, _, _, err := tree.Lstat(b.p.root, "", tree.ScanOptions{Owners: true})
		if err != nil {
			return err
		}
		e.Mode = 0o755
		if uid != 0 || gid != 0 {
			e.UID, e.GID = uint32(uid), uint32(gid)
		}
		b.dirs[""] = e
		return nil
	}
	real, err := d.readModes(base.ID)
	if err != nil {
		return err
	}
	if err := b.clone(ctx, d.abs(base.Dir), real.real); err != nil {
		return fmt.Errorf("copy of %s: %w", base.ID, err)
	}
	return nil
}
