package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Unpack implements Driver.
//
// Crash states: until it returns, views/<id> belongs to no layer that the store
// knows, and Reconcile deletes it.
func (d *Overlay) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter) (_ *Layer, err error) {
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
	if err := d.keepSyncFD(id); err != nil {
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
	fill func(ctx context.Context, write WriteFunc) error, m *Meter) error {
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

// Reconcile implements Driver.
//
// A mount that somebody still uses is left where it is and named in the report:
// its view can't be sealed or deleted until they are gone, and is never used
// meanwhile.
func (d *Overlay) Reconcile(ctx context.Context, layers, views []snapshot.ID) ([]string, error) {
	var report []string
	busy, err := d.o.reconcileMounts(ctx, d.root, &report)
	if err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	known := map[string]bool{}
	for _, id := range layers {
		known[string(id)] = true
	}
	for _, id := range views {
		known[string(id)] = true
	}
	names, err := readNames(d.abs(viewsDir))
	if err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	for _, n := range names {
		dir := filepath.Join(d.root, viewsDir, n)
		if known[n] || busy[dir] {
			continue
		}
		report = append(report, "deleted "+viewsDir+"/"+n+", which no view or layer knows")
		if err := d.remove(ctx, dir); err != nil {
			report = append(report, err.Error())
		}
	}
	if err := d.emptyTrash(ctx); err != nil {
		report = append(report, err.Error())
	}
	return report, ctx.Err()
}

// reconcileMounts ends every mount below root, and every overlay with a directory
// below root wherever it is mounted. It returns the directories views/<id> of
// those that are still in use.
func (o Options) reconcileMounts(ctx context.Context, root string, report *[]string) (map[string]bool, error) {
	all, err := readMounts()
	if err != nil {
		return nil, err
	}
	busy := map[string]bool{}
	for i := len(all) - 1; i >= 0; i-- {
		m := all[i]
		ours, dirs := false, viewDirs(root, m)
		if !inside(m.point, root) && len(dirs) == 0 {
			continue
		}
		if ours = m.fstype == "overlay" && len(dirs) > 0; ours {
			err := o.retryBusy(ctx, o.ReconcileWait, func() error { return setReadOnly(m.point, true) })
			if errors.Is(err, snapshot.ErrBusy) {
				*report = append(*report, fmt.Sprintf("%s is still written to; left as it is", m.point))
				mark(busy, dirs)
				continue
			}
		}
		if err := o.unmount(ctx, m.point, o.ReconcileWait); err != nil {
			*report = append(*report, err.Error())
			mark(busy, dirs)
			continue
		}
		*report = append(*report, "unmounted "+m.point)
		if ours {
			os.Remove(m.point) //nolint:errcheck // a mount point of use to nobody
		}
	}
	return busy, nil
}

func mark(set map[string]bool, names []string) {
	for _, n := range names {
		set[n] = true
	}
}

// viewDirs lists the directories views/<id> below root that a mount uses.
func viewDirs(root string, m mountEntry) []string {
	views := filepath.Join(root, viewsDir)
	var out []string
	for _, dir := range append(m.dirs, m.point) {
		if inside(dir, views) && dir != views {
			name := dir[len(views)+1:]
			name, _, _ = strings.Cut(name, "/")
			out = append(out, filepath.Join(views, name))
		}
	}
	return out
}
