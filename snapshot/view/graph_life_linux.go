package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/mountinfo"
	"github.com/roost-ci/roost/snapshot"
)

// Seal implements Driver.
func (d *graphDriver) Seal(ctx context.Context, v *View) error {
	if err := checkView(v); err != nil {
		return err
	}
	if err := d.end(ctx, v); err != nil {
		return fmt.Errorf("seal %s: %w", v.ID, err)
	}
	fail.Point("view.seal.unmounted")
	if fi, err := os.Stat(d.abs(v.Layer.Dir)); err != nil {
		return fmt.Errorf("seal %s: %w", v.ID, err)
	} else if !fi.IsDir() {
		return fmt.Errorf("seal %s: %s is not a directory", v.ID, v.Layer.Dir)
	}
	return nil
}

// Discard implements Driver.
func (d *graphDriver) Discard(ctx context.Context, v *View) error {
	return d.frame().discard(ctx, v, func() error { return d.end(ctx, v) })
}

func (d *graphDriver) frame() frame {
	return frame{layout: d.layout, held: &d.held, log: d.o.Log, erase: d.removeID}
}

// removeID deletes all that belongs to id: files by our own remover, which nothing
// that a job made can stop, then the graph's layers, then the name.
func (d *graphDriver) removeID(ctx context.Context, id snapshot.ID) error {
	d.held.drop(id)
	if _, err := os.Lstat(filepath.Join(d.dir(id), baseName)); err == nil {
		if err := d.o.unmount(ctx, d.dir(id), d.o.SealWait); err != nil {
			return err
		}
	}
	for _, prefix := range []string{"", fixupPrefix, flatPrefix} {
		if err := d.removeGraph(ctx, prefix+string(id)); err != nil {
			return err
		}
	}
	fail.Point("view.graph.removed")
	return d.remove(ctx, d.dir(id))
}

func (d *graphDriver) removeGraph(ctx context.Context, id string) error {
	if !d.graph.Exists(id) {
		return nil
	}
	if upper, err := d.graph.Upper(id); err == nil {
		if err := d.remove(ctx, upper); err != nil {
			return err
		}
	}
	return d.graph.Remove(id)
}

// Sync implements Driver. An error is final, as for the overlay driver.
func (d *graphDriver) Sync(ctx context.Context, l *Layer) error { return d.frame().sync(ctx, l) }

// Remove implements Driver.
func (d *graphDriver) Remove(ctx context.Context, l *Layer) error { return d.frame().remove(ctx, l) }

// Reconcile implements Driver.
func (d *graphDriver) Reconcile(ctx context.Context, layers, views []snapshot.ID) ([]string, error) {
	var report []string
	if err := d.endAll(ctx, &report); err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	if err := d.frame().sweep(ctx, layers, views, nil, &report); err != nil {
		return report, err
	}
	if err := d.strays(ctx, slices.Concat(layers, views), &report); err != nil {
		report = append(report, err.Error())
	}
	return report, ctx.Err()
}

// strays deletes what of unknown ids the graph still has.
func (d *graphDriver) strays(ctx context.Context, known []snapshot.ID, report *[]string) error {
	ids, err := d.graph.Layers()
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range ids {
		id, err := ownerOfGraph(g)
		if err != nil || slices.Contains(known, id) {
			continue // not ours, or alive
		}
		*report = append(*report, "deleted layer "+g+", which no view or layer knows")
		errs = append(errs, d.removeGraph(ctx, g))
	}
	return errors.Join(errs...)
}

// ownerOfGraph is the id to which one of the graph's layers belongs: its name, or
// what stands behind a part's letter. An id can begin with such a letter too.
func ownerOfGraph(g string) (snapshot.ID, error) {
	id, err := snapshot.ParseID(g)
	if err != nil && strings.IndexAny(g, fixupPrefix+flatPrefix) == 0 {
		id, err = snapshot.ParseID(g[1:])
	}
	return id, err
}

// endAll ends every mount below the root, and every overlay of the graph's
// directories wherever it is mounted.
func (d *graphDriver) endAll(ctx context.Context, report *[]string) error {
	all, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(all) {
		ours := m.fstype == "overlay" && slices.ContainsFunc(m.dirs, func(dir string) bool { return mountinfo.Inside(dir, d.home) })
		if !ours && (!mountinfo.Inside(m.point, d.root) || m.point == d.root) { // at the root is what the store lies on
			continue
		}
		if ours {
			err := d.o.retryBusy(ctx, d.o.ReconcileWait, func() error { return setReadOnly(m.point, true) })
			if errors.Is(err, errNoOverlay) || errors.Is(err, unix.EINVAL) {
				continue // it went together with a peer of its mount point
			}
			if errors.Is(err, snapshot.ErrBusy) {
				*report = append(*report, fmt.Sprintf("%s is still written to; left as it is", m.point))
				continue
			}
		}
		if err := d.o.unmount(ctx, m.point, d.o.ReconcileWait); err != nil {
			*report = append(*report, err.Error())
			continue
		}
		*report = append(*report, "unmounted "+m.point)
		if ours && !mountinfo.Inside(m.point, d.home) {
			os.Remove(m.point) //nolint:errcheck // a mount point of use to nobody
		}
	}
	return nil
}
