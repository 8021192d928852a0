package view

import (
	"context"
	"errors"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// copyEntry makes e with the content of its Source.
func copyEntry(ctx context.Context, p *placer, e *snapshot.Entry, m *Meter) error {
	f, err := p.create(e.Path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // synced as a whole, where errors are seen
	if e.Size > 0 {
		if e.Source == "" {
			return &snapshot.CorruptError{What: "merged tree", Name: e.Path, Why: "its content is not on this host"}
		}
		if err := copySource(ctx, f, e, m); err != nil {
			return err
		}
	}
	return p.metaFD(f, e)
}

// write turns a new layer into what makes changes to the tree of parent. with may
// change how, and returns what is to be done between the names and their looks.
func (d *graphDriver) write(ctx context.Context, id snapshot.ID, parent, upper string, look snapshot.Entry,
	changes Changes, with func(*delta) func() error,
) error {
	get, done := d.baseMount(ctx, id, parent)
	w, err := newDelta(upper, look, get)
	if err != nil {
		return errors.Join(err, done())
	}
	defer w.p.close()
	between := with(w)
	err = w.write(ctx, changes)
	w.release()
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	if between != nil {
		if err := between(); err != nil {
			return err
		}
	}
	return w.finish()
}

// Unpack implements Driver.
func (d *graphDriver) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) (*Layer, error) {
	return d.frame().unpack(ctx, id, base, changes, func(l *Layer) error {
		made, err := d.unpackTo(ctx, id, base, changes, fill, m)
		if err != nil {
			return err
		}
		*l = *made
		return d.Sync(ctx, l)
	})
}

func (d *graphDriver) unpackTo(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) (*Layer, error) {
	parent, lowers, err := d.stand(ctx, Spec{ID: id, Base: base, Meter: m})
	if err != nil {
		return nil, err
	}
	look, err := d.lookOf(id, parent, 0, 0)
	if err != nil {
		return nil, err
	}
	upper, err := d.create(id, upperPrefix, string(id), parent, look)
	if err != nil {
		return nil, err
	}
	err = d.write(ctx, id, parent, upper, look, ChangesOf(changes), func(w *delta) func() error {
		files := newFiller(w.p, changes, m)
		w.file = files.make
		return func() error {
			fail.Point("view.unpack.names")
			if err := fill(ctx, files.write); err != nil {
				return err
			}
			fail.Point("view.unpack.filled")
			return files.finish(func(e *snapshot.Entry) *snapshot.Entry { return e })
		}
	})
	if err != nil {
		return nil, err
	}
	dir := part(id, upperPrefix)
	return &Layer{ID: id, Dir: dir, Lowers: append([]string{dir}, lowers...)}, nil
}

// Changes implements Driver.
func (d *graphDriver) Changes(ctx context.Context, l *Layer, base *snapshot.Manifest) ([]snapshot.Change, error) {
	return d.ov.Changes(ctx, l, base)
}

// List implements Lister.
func (d *graphDriver) List(ctx context.Context, l *Layer, list Entries) (Listed, error) {
	return d.ov.List(ctx, l, list)
}

// ListsAll implements Lister.
func (d *graphDriver) ListsAll() bool { return false }

// Locate implements Driver.
func (d *graphDriver) Locate(l *Layer, changes []snapshot.Change) { locate(d.layout, l, changes) }
