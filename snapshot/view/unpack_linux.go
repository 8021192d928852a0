package view

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Unpack implements Driver.
func (d *Overlay) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) (*Layer, error) {
	if err := d.checkShown(base); err != nil {
		return nil, err
	}
	return d.frame().unpack(ctx, id, base, changes, func(l *Layer) error {
		on, err := d.flatten(ctx, Spec{ID: id, Base: base, Meter: m})
		if err != nil {
			return fmt.Errorf("flatten: %w", err)
		}
		l.Lowers = []string{l.Dir}
		if on != nil {
			l.Lowers, l.Data = append(l.Lowers, on.Lowers...), on.Data
		}
		if err := d.unpackTo(ctx, l, on, changes, fill, m); err != nil {
			return err
		}
		return d.Sync(ctx, l)
	})
}

func (d *Overlay) unpackTo(ctx context.Context, l, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) error {
	dir := d.abs(l.Dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root := newRoot(0, 0)
	if base != nil {
		below, release, err := d.stackOf(ctx, base)
		if err != nil {
			return err
		}
		root, err = rootOf(below)
		release()
		if err != nil {
			return err
		}
	}
	get, done := d.baseMount(ctx, l.ID, base)
	w, err := newDelta(dir, root, get)
	if err != nil {
		return errors.Join(err, done())
	}
	defer w.p.close()
	files := newFiller(w.p, changes, m)
	w.file = files.make
	err = w.write(ctx, ChangesOf(changes))
	w.release()
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	fail.Point("view.unpack.names")
	if err := fill(ctx, files.write); err != nil {
		return err
	}
	fail.Point("view.unpack.filled")
	if err := files.finish(func(e *snapshot.Entry) *snapshot.Entry { return e }); err != nil {
		return err
	}
	return w.finish()
}

// newRoot is what the root of an empty tree looks like.
func newRoot(uid, gid int) snapshot.Entry {
	return snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755, UID: uint32(uid), GID: uint32(gid)}
}

// rootOf is what the root of a stack that is not empty looks like.
func rootOf(s stack) (snapshot.Entry, error) {
	e, _, _, err := tree.Lstat(s.lowers[0], "", tree.ScanOptions{Owners: true})
	if err != nil {
		return e, fmt.Errorf("root of %s: %w", s.lowers[0], err)
	}
	return e, nil
}
