package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// frame is what the methods of every driver do around their own part.
type frame struct {
	layout
	held *held
	log  hclog.Logger
	// erase deletes all that belongs to an id.
	erase func(ctx context.Context, id snapshot.ID) error
}

// prepare checks what Prepare was given, makes the target and views/<id>, and has lay
// make the view and show it. On error nothing of it is left: discard undoes it, also
// when the error is that ctx ended.
//
// Crash states: until lay makes more of it, views/<id> exists, and nothing is mounted.
// Discard or Reconcile deletes it.
func (f frame) prepare(ctx context.Context, spec Spec, discard func(context.Context, *View) error,
	lay func(v *View) error,
) (_ *View, err error) {
	if _, err := snapshot.ParseID(string(spec.ID)); err != nil {
		return nil, fmt.Errorf("view: %w", err)
	}
	if err := checkLayer(spec.Base); err != nil {
		return nil, err
	}
	target, err := makeTarget(spec.Target)
	if err != nil {
		return nil, err
	}
	v := &View{ID: spec.ID, Target: target, Layer: Layer{ID: spec.ID, Dir: part(spec.ID, upperPrefix)}}
	if err := os.Mkdir(f.dir(spec.ID), 0o700); err != nil {
		return nil, fmt.Errorf("view %s: %w", spec.ID, err)
	}
	defer func() {
		if err == nil {
			return
		}
		if derr := discard(context.WithoutCancel(ctx), v); derr != nil {
			f.log.Warn("could not undo a view; it is deleted at the next start", "view", v.ID, "err", derr)
		}
	}()
	fail.Point("view.prepare.made")
	if err := f.held.begin(spec.ID, f.dir(spec.ID)); err != nil {
		return nil, err
	}
	if err := lay(v); err != nil {
		return nil, fmt.Errorf("view %s: %w", spec.ID, err)
	}
	fail.Point("view.prepare.mounted")
	return v, nil
}

// unpack checks what Unpack was given, makes views/<id> and has lay make the layer
// in it, synced. On error nothing is left.
//
// Crash states: until it returns, views/<id> belongs to no layer that the store
// knows, and Reconcile deletes it.
func (f frame) unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	lay func(l *Layer) error,
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
	if err := os.Mkdir(f.dir(id), 0o700); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			if rerr := f.erase(context.WithoutCancel(ctx), id); rerr != nil {
				f.log.Warn("could not undo an unpack; it is deleted at the next start", "layer", id, "err", rerr)
			}
		}
	}()
	fail.Point("view.unpack.made")
	if err := f.held.begin(id, f.dir(id)); err != nil {
		return nil, err
	}
	l := &Layer{ID: id, Dir: part(id, upperPrefix)}
	if err := lay(l); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	return l, nil
}

// discard ends v by end and deletes it.
func (f frame) discard(ctx context.Context, v *View, end func() error) error {
	if _, err := snapshot.ParseID(string(v.ID)); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	err := end()
	if err == nil {
		err = f.erase(ctx, v.ID)
	}
	if err != nil {
		return fmt.Errorf("discard %s: %w", v.ID, err)
	}
	return nil
}

// remove deletes a layer.
func (f frame) remove(ctx context.Context, l *Layer) error {
	if err := checkLayer(l); err != nil {
		return err
	}
	if err := f.erase(ctx, l.ID); err != nil {
		return fmt.Errorf("remove %s: %w", l.ID, err)
	}
	return nil
}

// sync brings a layer to disk. An error is final: the layer must not be trusted,
// and a second call may say yes to lost bytes.
func (f frame) sync(ctx context.Context, l *Layer) error {
	if err := checkLayer(l); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, late, err := f.held.take(l.ID, f.dir(l.ID))
	if err == nil {
		if err = syncAll(dir, f.dir(l.ID)); err == nil && late {
			err = askFiles(ctx, dir)
		}
		dir.Close() //nolint:errcheck // only held for syncing
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", l.ID, err)
	}
	fail.Point("view.synced")
	return nil
}

// sweep deletes what belongs to no known id, but for the directories that are
// busy, and empties the trash.
func (f frame) sweep(ctx context.Context, layers, views []snapshot.ID, busy map[string]bool, report *[]string) error {
	known := map[string]bool{}
	for _, ids := range [][]snapshot.ID{layers, views} {
		for _, id := range ids {
			known[string(id)] = true
		}
	}
	names, err := readNames(f.abs(viewsDir))
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	for _, n := range names {
		dir := filepath.Join(f.abs(viewsDir), n)
		if known[n] || busy[dir] {
			continue
		}
		*report = append(*report, "deleted "+viewsDir+"/"+n+", which no view or layer knows")
		if id, perr := snapshot.ParseID(n); perr == nil {
			err = f.erase(ctx, id)
		} else {
			err = f.layout.remove(ctx, dir)
		}
		if err != nil {
			*report = append(*report, err.Error())
		}
	}
	if err := errors.Join(f.emptyTrash(ctx), f.dropImages()); err != nil {
		*report = append(*report, err.Error())
	}
	return ctx.Err()
}

// checkView refuses a view whose parts do not belong together.
func checkView(v *View) error {
	if _, err := snapshot.ParseID(string(v.ID)); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	if v.Layer.ID != v.ID {
		return fmt.Errorf("view %s: its layer is %q", v.ID, v.Layer.ID)
	}
	return checkLayer(&v.Layer)
}
