package view

import (
	"context"
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
	if spec.Base != nil && spec.Fanin == nil {
		b.stamps = map[uint64]stamp{}
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
	m, err := d.stamp(ctx, spec.ID, dir, b.stamps)
	if err != nil {
		return err
	}
	m.target = target
	if err := b.finish(); err != nil {
		return err
	}
	return d.writeMeta(spec.ID, m)
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
