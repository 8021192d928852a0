package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Prepare implements Driver.
//
// Crash states, in order:
//  1. views/<id> exists in part, nothing is mounted: Discard or Reconcile deletes it.
//  2. mounted: Reconcile unmounts; what is known to the store stays until it says
//     Seal or Discard, all else is deleted.
func (d *Overlay) Prepare(ctx context.Context, spec Spec) (*View, error) {
	if err := d.checkShown(spec.Base); err != nil {
		return nil, err
	}
	return d.frame().prepare(ctx, spec, d.Discard, func(v *View) error {
		on, err := d.standOn(ctx, spec)
		if err != nil {
			return err
		}
		v.Layer.Lowers = []string{v.Layer.Dir}
		if on != nil {
			v.Layer.Lowers = append(v.Layer.Lowers, on.Lowers...)
			v.Layer.Data, v.Layer.Image, v.Layer.Key, v.Layer.Devices = on.Data, on.Image, on.Key, on.Devices
			v.Layer.Small, v.Layer.Counted = on.Small, on.Counted
		}
		if err := d.mountView(ctx, spec, on, v.Target); err != nil {
			return err
		}
		d.remember(spec.ID, v.Target)
		return nil
	})
}

// standOn makes what the view of spec stands on: its base, changed as the fan-in
// says. nil is nothing.
func (d *Overlay) standOn(ctx context.Context, spec Spec) (*Layer, error) {
	image, err := d.imageFanin(spec)
	if err != nil {
		return nil, fmt.Errorf("merged tree: %w", err)
	}
	if image {
		l, err := d.startImage(ctx, spec)
		var un *snapshot.UnsupportedError
		if err == nil {
			return l, nil
		} else if !errors.As(err, &un) {
			return nil, fmt.Errorf("image of the merged tree: %w", err)
		}
		d.o.Log.Info("a merged tree has no image", "view", spec.ID, "err", err)
	}
	base, err := d.flatten(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("flatten: %w", err)
	}
	on, err := d.fixup(ctx, spec, base)
	if err != nil {
		return nil, fmt.Errorf("merged tree: %w", err)
	}
	return on, nil
}

// mountView mounts a new upper on top of on.
func (d *Overlay) mountView(ctx context.Context, spec Spec, on *Layer, target string) error {
	s, done, err := d.stackOf(ctx, on)
	if err != nil {
		return err
	}
	defer done()
	s.upper = d.abs(part(spec.ID, upperPrefix))
	s.work = filepath.Join(d.dir(spec.ID), workName)
	look := ""
	if on != nil {
		look = s.lowers[0]
	}
	if err := d.makeUpper(spec, s, look); err != nil {
		return err
	}
	fail.Point("view.prepare.upper")
	if err := mountStack(s, target, d.o.NoDataDirs); err != nil {
		return err
	}
	d.pinBelow(spec.ID, on, s)
	return nil
}

// makeUpper makes the upper and work directories. The root of a mount looks as
// its upper's does, so it gets the look of the directory below, if there is one.
func (d *Overlay) makeUpper(spec Spec, s stack, look string) error {
	if err := os.Mkdir(s.work, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(s.upper, 0o755); err != nil {
		return err
	}
	if look != "" {
		return d.copyRootMeta(look, s.upper)
	}
	if err := os.Chmod(s.upper, 0o755); err != nil { // whatever the umask is
		return err
	}
	if spec.UID != 0 || spec.GID != 0 {
		return os.Chown(s.upper, spec.UID, spec.GID)
	}
	return nil
}

// copyRootMeta makes the directory to look like from. Owners are always copied:
// this driver runs as root only.
func (d *Overlay) copyRootMeta(from, to string) error {
	e, _, _, err := tree.Lstat(from, "", tree.ScanOptions{Owners: true})
	if err != nil {
		return fmt.Errorf("root of %s: %w", from, err)
	}
	p, err := newPlacer(to, true)
	if err != nil {
		return err
	}
	defer p.close()
	return p.meta("", &e)
}
