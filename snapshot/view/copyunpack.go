package view

import (
	"context"
	"os"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// Unpack implements Driver.
func (d *Copy) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) (*Layer, error) {
	return d.frame().unpack(ctx, id, base, changes, func(l *Layer) error {
		if err := d.unpackTo(ctx, l, base, changes, fill, m); err != nil {
			return err
		}
		return d.Sync(ctx, l)
	})
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
