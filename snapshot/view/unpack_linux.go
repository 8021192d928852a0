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
//
// Crash states: until it returns, views/<id> belongs to no layer that the store
// knows, and Reconcile deletes it.
func (d *Overlay) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) (_ *Layer, err error) {
	if _, err := snapshot.ParseID(string(id)); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	if err := checkLayer(base); err != nil {
		return nil, err
	}
	if err := tree.ValidateChanges(changes); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	if err := os.Mkdir(d.dir(id), 0o700); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			if rerr := d.removeID(context.WithoutCancel(ctx), id); rerr != nil {
				d.o.Log.Warn("could not undo an unpack; it is deleted at the next start", "layer", id, "err", rerr)
			}
		}
	}()
	fail.Point("view.unpack.made")
	if err := d.held.keep(id, d.dir(id)); err != nil {
		return nil, err
	}
	base, err = d.flatten(ctx, Spec{ID: id, Base: base, Meter: m})
	if err != nil {
		return nil, fmt.Errorf("unpack %s: flatten: %w", id, err)
	}
	l := &Layer{ID: id, Dir: part(id, upperPrefix)}
	l.Lowers = []string{l.Dir}
	if base != nil {
		l.Lowers, l.Data = append(l.Lowers, base.Lowers...), base.Data
	}
	if err := d.unpackTo(ctx, l, base, changes, fill, m); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	if err := d.Sync(ctx, l); err != nil {
		return nil, err
	}
	return l, nil
}

func (d *Overlay) unpackTo(ctx context.Context, l, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) error {
	dir := d.abs(l.Dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := d.rootOf(base, 0, 0)
	if err != nil {
		return err
	}
	get, done := d.baseMount(ctx, l.ID, base)
	w, err := newDelta(dir, root, get)
	if err != nil {
		return errors.Join(err, done())
	}
	defer w.p.close()
	files := newFiller(w.p, changes, m)
	w.file = files.make
	err = w.write(ctx, changes)
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

// rootOf is what the root of the tree of base looks like, or of an empty one.
func (d *Overlay) rootOf(base *Layer, uid, gid int) (snapshot.Entry, error) {
	if base == nil {
		return snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755, UID: uint32(uid), GID: uint32(gid)}, nil
	}
	e, _, _, err := tree.Lstat(d.abs(base.Lowers[0]), "", tree.ScanOptions{Owners: true})
	if err != nil {
		return e, fmt.Errorf("root of %s: %w", base.ID, err)
	}
	return e, nil
}
