package view

import (
	"context"
	"fmt"
	"os"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Unpack implements Driver.
func (d *Copy) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
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
	l := &Layer{ID: id, Dir: part(id, upperPrefix)}
	if err := d.unpackTo(ctx, l, base, changes, fill, m); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	if err := d.Sync(ctx, l); err != nil {
		return nil, err
	}
	return l, nil
}

func (d *Copy) unpackTo(ctx context.Context, l, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) error {
	dir := d.abs(l.Dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	b, err := newBuilder(dir, d.owners, m)
	if err != nil {
		return err
	}
	defer b.p.close()
	b.content = d.content
	if !d.super {
		b.hidden = modes{}
	}
	if err := d.cloneBase(ctx, b, base, 0, 0); err != nil {
		return err
	}
	files := newFiller(b.p, changes, m)
	if err := b.apply(ctx, d.layout, changes, files.make); err != nil {
		return err
	}
	fail.Point("view.unpack.names")
	if err := fill(ctx, files.write); err != nil {
		return err
	}
	fail.Point("view.unpack.filled")
	// Names of one file that were linked before its mode was known.
	for i := range changes {
		if e := &changes[i].Entry; e.Link != "" && !changes[i].Delete && e.Type == snapshot.TypeFile {
			b.look(e)
		}
	}
	if err := files.finish(b.look); err != nil {
		return err
	}
	if err := b.finish(); err != nil {
		return err
	}
	return d.writeModes(l.ID, b.hidden)
}
