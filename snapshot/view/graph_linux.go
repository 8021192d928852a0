package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Graph is the part of a container engine's graph driver that views are made of.
// Layers are overlay directories in the manner of containers/storage.
type Graph interface {
	// Create makes an empty layer on parent, "" for none.
	Create(id, parent string) error
	// Mount shows a layer with all that it stands on and returns where.
	Mount(id string, options []string) (string, error)
	// Unmounted tells the graph that what Mount made is gone.
	Unmounted(id string) error
	// Remove deletes a layer; one that is not there is no error.
	Remove(id string) error
	// Exists reports whether there is a layer id.
	Exists(id string) bool
	// Upper returns the directory of a layer's own files.
	Upper(id string) (string, error)
	// Layers lists the ids of all layers.
	Layers() ([]string, error)
	// MaxParents is how many layers one may stand on.
	MaxParents() int
}

// GraphOptions are the mount options of every view and layer; what each is for
// stands at overlayParams.
var GraphOptions = []string{"nosuid", "nodev", "redirect_dir=on", "metacopy=on", "index=off", "xino=off"}

// graphDriver makes views of a Graph's layers. It is the graph that keeps layers
// and mounts them; what lies in them is written and read by our own code, as in
// the overlay driver:
//
//	views/<id>/u<id>   a link to the layer's own files, wherever the graph has them
//
// The graph's id of a view's layer is our id. Before it, with a prefix, stand the
// fix-up layer of a fan-in and what a high stack was flattened to.
type graphDriver struct {
	layout
	name  string
	graph Graph
	home  string // where the graph has its directories
	o     Options
	ov    *Overlay // lends what it knows of uppers and mounts
	held  held

	mounting sync.Mutex // a graph's mounts are counted, ours move on at once
}

// NewGraph makes a driver called name of graph, which keeps all that it has below
// the directory home.
func NewGraph(name, root, home string, graph Graph, o Options) (Driver, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: %s needs root", ErrUnavailable, name)
	}
	l, err := openLayout(root)
	if err != nil {
		return nil, err
	}
	if home, err = filepath.EvalSymlinks(home); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	return &graphDriver{
		layout: l, name: name, graph: graph, home: home, o: o,
		ov: &Overlay{layout: l, o: o, mounts: map[snapshot.ID]uint64{}},
	}, nil
}

// Name implements Driver.
func (d *graphDriver) Name() string { return d.name }

func parentID(l *Layer) string {
	if l == nil {
		return ""
	}
	return string(l.ID)
}

// Prepare implements Driver.
//
// Crash states: views/<id> is made first and deleted last, so whatever the graph
// has of an unknown id is found by it.
func (d *graphDriver) Prepare(ctx context.Context, spec Spec) (_ *View, err error) {
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
	if err := os.Mkdir(d.dir(spec.ID), 0o700); err != nil {
		return nil, fmt.Errorf("view %s: %w", spec.ID, err)
	}
	defer func() {
		if err != nil {
			if derr := d.Discard(context.WithoutCancel(ctx), v); derr != nil {
				d.o.Log.Warn("could not undo a view; it is deleted at the next start", "view", v.ID, "err", derr)
			}
		}
	}()
	fail.Point("view.prepare.made")
	if err := d.held.keep(spec.ID, d.dir(spec.ID)); err != nil {
		return nil, err
	}
	parent, lowers, err := d.stand(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("view %s: %w", spec.ID, err)
	}
	v.Layer.Lowers = append([]string{v.Layer.Dir}, lowers...)
	look, err := d.lookOf(spec.ID, parent, spec.UID, spec.GID)
	if err != nil {
		return nil, fmt.Errorf("view %s: %w", spec.ID, err)
	}
	if _, err := d.create(spec.ID, upperPrefix, string(spec.ID), parent, look); err != nil {
		return nil, fmt.Errorf("view %s: %w", spec.ID, err)
	}
	fail.Point("view.prepare.upper")
	if err := d.mount(string(spec.ID), target, "volatile"); err != nil {
		return nil, fmt.Errorf("view %s: %w", spec.ID, err)
	}
	d.ov.remember(spec.ID, target)
	fail.Point("view.prepare.mounted")
	return v, nil
}

// stand makes what the view's own layer stands on, and returns the graph's id of it
// and the directories of all layers there.
func (d *graphDriver) stand(ctx context.Context, spec Spec) (parent string, lowers []string, err error) {
	parent = parentID(spec.Base)
	if spec.Base != nil {
		lowers = slices.Clone(spec.Base.Lowers)
	}
	if len(lowers)+2 > min(d.o.MaxLowers, d.graph.MaxParents()) {
		if parent, err = d.flatten(ctx, spec, parent); err != nil {
			return "", nil, fmt.Errorf("flatten: %w", err)
		}
		lowers = []string{part(spec.ID, flatPrefix)}
	}
	if spec.Fanin == nil || len(spec.Fanin.Changes) == 0 {
		return parent, lowers, nil
	}
	look, err := d.lookOf(spec.ID, parent, spec.UID, spec.GID)
	if err != nil {
		return "", nil, err
	}
	id := fixupPrefix + string(spec.ID)
	upper, err := d.create(spec.ID, fixupPrefix, id, parent, look)
	if err != nil {
		return "", nil, err
	}
	err = d.write(ctx, spec.ID, parent, upper, look, spec.Fanin.Changes, func(w *delta) func() error {
		w.file = func(_ int, e *snapshot.Entry) error { return copyEntry(ctx, w.p, e, spec.Meter) }
		return nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("merged tree: %w", err)
	}
	fail.Point("view.fixup.made")
	return id, append([]string{part(spec.ID, fixupPrefix)}, lowers...), nil
}

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
	changes []snapshot.Change, with func(*delta) func() error,
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

// baseMount shows a layer below the view's own directory when it is first asked
// for.
func (d *graphDriver) baseMount(ctx context.Context, id snapshot.ID, parent string) (get func() (string, error), done func() error) {
	if parent == "" {
		return nil, func() error { return nil }
	}
	at := filepath.Join(d.dir(id), baseName)
	made := false
	get = func() (string, error) {
		if made {
			return at, nil
		}
		if err := os.Mkdir(at, 0o700); err != nil {
			return "", err
		}
		if err := d.mount(parent, at, "ro"); err != nil {
			return "", fmt.Errorf("base %s: %w", parent, err)
		}
		fail.Point("view.base.mounted")
		made = true
		return at, nil
	}
	done = func() error {
		if !made {
			return nil
		}
		if err := d.o.unmount(context.WithoutCancel(ctx), at, d.o.SealWait); err != nil {
			return err
		}
		return os.Remove(at)
	}
	return get, done
}

// flatten copies the tree of parent into a layer that stands on nothing.
func (d *graphDriver) flatten(ctx context.Context, spec Spec, parent string) (string, error) {
	look, err := d.lookOf(spec.ID, parent, 0, 0)
	if err != nil {
		return "", err
	}
	id := flatPrefix + string(spec.ID)
	upper, err := d.create(spec.ID, flatPrefix, id, "", look)
	if err != nil {
		return "", err
	}
	get, done := d.baseMount(ctx, spec.ID, parent)
	from, err := get()
	if err == nil {
		err = cloneTree(ctx, cloneOptions{from: from, to: upper, owners: true, meter: spec.Meter})
	}
	if err := errors.Join(err, done()); err != nil {
		return "", err
	}
	fail.Point("view.flattened")
	return id, nil
}

// lookOf is what the root of a layer of id on parent must look like.
func (d *graphDriver) lookOf(id snapshot.ID, parent string, uid, gid int) (snapshot.Entry, error) {
	at := d.dir(id) // was made just now
	if parent != "" {
		upper, err := d.graph.Upper(parent)
		if err != nil {
			return snapshot.Entry{}, err
		}
		at = upper
	}
	e, _, _, err := tree.Lstat(at, "", tree.ScanOptions{Owners: true})
	if parent == "" {
		e.Mode, e.UID, e.GID = 0o755, uint32(uid), uint32(gid)
	}
	return e, err
}

// create makes the layer id in the graph and a link to its files among id's own.
func (d *graphDriver) create(id snapshot.ID, prefix, graphID, parent string, look snapshot.Entry) (string, error) {
	if d.graph.Exists(graphID) {
		return "", fmt.Errorf("layer %s: %w", graphID, os.ErrExist)
	}
	if err := d.graph.Create(graphID, parent); err != nil {
		return "", err
	}
	fail.Point("view.graph.created")
	upper, err := d.graph.Upper(graphID)
	if err != nil {
		return "", err
	}
	p, err := newPlacer(upper, true)
	if err != nil {
		return "", err
	}
	defer p.close()
	if err := p.meta("", &look); err != nil {
		return "", err
	}
	return upper, os.Symlink(upper, d.abs(part(id, prefix)))
}

// mount shows a layer at target. The graph mounts it where it likes; we take a
// reference of that and end it, so that a view is mounted once, and no lazy
// unmount, which is how graphs do it, ever meets one in use.
func (d *graphDriver) mount(id, target, option string) error {
	d.mounting.Lock()
	defer d.mounting.Unlock()
	keep, err := d.rootLook(id)
	if err != nil {
		return err
	}
	at, err := d.graph.Mount(id, append(slices.Clone(GraphOptions), option))
	if err != nil {
		return errors.Join(err, keep())
	}
	fail.Point("view.mount.detached")
	if err = keep(); err == nil {
		err = d.show(at, target)
	}
	if err == nil {
		fail.Point("view.mount.attached")
	}
	if uerr := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); uerr != nil {
		err = errors.Join(err, fmt.Errorf("unmount %s: %w", at, uerr))
	}
	return errors.Join(err, d.graph.Unmounted(id))
}

// rootLook notes what the root of a layer looks like and puts that right when keep
// is called: at each mount the library gives it to the root user. It is seen only
// through this mount, which nobody uses yet; what stands on the layer has a root of
// its own.
func (d *graphDriver) rootLook(id string) (keep func() error, err error) {
	upper, err := d.graph.Upper(id)
	if err != nil {
		return nil, err
	}
	was, _, _, err := tree.Lstat(upper, "", tree.ScanOptions{Owners: true})
	var un *snapshot.UnsupportedError
	if err != nil && !errors.As(err, &un) {
		return nil, err
	}
	return func() error {
		now, _, _, err := tree.Lstat(upper, "", tree.ScanOptions{Owners: true})
		if err != nil && !errors.As(err, &un) || now.UID == was.UID && now.GID == was.GID && now.Mode == was.Mode {
			return err
		}
		p, err := newPlacer(upper, true)
		if err != nil {
			return err
		}
		defer p.close()
		was.Xattrs = nil // they are there
		return p.meta("", &was)
	}, nil
}

func (d *graphDriver) show(at, target string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open %s: %w", at, err)
	}
	defer unix.Close(fd) //nolint:errcheck // a reference; the mount stays
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach at %s: %w", target, err)
	}
	return private(target)
}

// where returns the point at which v is mounted, "" if it is not.
func (d *graphDriver) where(v *View) (string, error) {
	d.ov.mu.Lock()
	known := d.ov.mounts[v.ID]
	d.ov.mu.Unlock()
	if t := v.resolved(); t != "" && known != 0 && mountID(t) == known {
		return t, nil
	}
	upper, err := d.graph.Upper(string(v.ID))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	mounts, err := readMounts()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.fstype == "overlay" && slices.Contains(m.dirs, upper) && slices.Contains(m.dirs, filepath.Join(filepath.Dir(upper), "work")) {
			return m.point, nil
		}
	}
	return "", nil
}

// end unmounts a view if it is mounted.
func (d *graphDriver) end(ctx context.Context, v *View) error {
	t, err := d.where(v)
	if err != nil || t == "" {
		return err
	}
	if err := d.ov.endMount(ctx, t); err != nil {
		return err
	}
	d.ov.forget(v.ID)
	os.Remove(t) //nolint:errcheck // a mount point of use to nobody; it may be somebody's
	return nil
}

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
	if _, err := snapshot.ParseID(string(v.ID)); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	if err := d.end(ctx, v); err != nil {
		return fmt.Errorf("discard %s: %w", v.ID, err)
	}
	if err := d.removeID(ctx, v.ID); err != nil {
		return fmt.Errorf("discard %s: %w", v.ID, err)
	}
	return nil
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

// Changes implements Driver.
func (d *graphDriver) Changes(ctx context.Context, l *Layer, base *snapshot.Manifest) ([]snapshot.Change, error) {
	return d.ov.Changes(ctx, l, base)
}

// Locate implements Driver.
func (d *graphDriver) Locate(l *Layer, changes []snapshot.Change) { locate(d.layout, l, changes) }

// Mount implements Driver.
func (d *graphDriver) Mount(ctx context.Context, l *Layer, target string) (io.Closer, error) {
	if err := checkLayer(l); err != nil {
		return nil, err
	}
	t, err := makeTarget(target)
	if err != nil {
		return nil, err
	}
	if err := d.mount(string(l.ID), t, "ro"); err != nil {
		return nil, fmt.Errorf("mount %s: %w", l.ID, err)
	}
	return closer(func() error {
		if err := d.o.unmount(context.WithoutCancel(ctx), t, d.o.SealWait); err != nil {
			return err
		}
		os.Remove(t) //nolint:errcheck // a mount point of use to nobody
		return nil
	}), nil
}

// Sync implements Driver. An error is final, as for the overlay driver.
func (d *graphDriver) Sync(ctx context.Context, l *Layer) error {
	if err := checkLayer(l); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := d.held.take(l.ID, d.dir(l.ID))
	if err != nil {
		return fmt.Errorf("sync %s: %w", l.ID, err)
	}
	defer f.Close() //nolint:errcheck // only held for Syncfs
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", l.ID, err)
	}
	fail.Point("view.synced")
	return nil
}

// Remove implements Driver.
func (d *graphDriver) Remove(ctx context.Context, l *Layer) error {
	if err := checkLayer(l); err != nil {
		return err
	}
	if err := d.removeID(ctx, l.ID); err != nil {
		return fmt.Errorf("remove %s: %w", l.ID, err)
	}
	return nil
}

// Unpack implements Driver.
func (d *graphDriver) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
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
	l, err := d.unpackTo(ctx, id, base, changes, fill, m)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	if err := d.Sync(ctx, l); err != nil {
		return nil, err
	}
	return l, nil
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
	err = d.write(ctx, id, parent, upper, look, changes, func(w *delta) func() error {
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

// Reconcile implements Driver.
func (d *graphDriver) Reconcile(ctx context.Context, layers, views []snapshot.ID) ([]string, error) {
	var report []string
	if err := d.endAll(ctx, &report); err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	known := map[string]bool{}
	for _, id := range slices.Concat(layers, views) {
		known[string(id)] = true
	}
	names, err := readNames(d.abs(viewsDir))
	if err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	for _, n := range names {
		if known[n] {
			continue
		}
		report = append(report, "deleted "+viewsDir+"/"+n+", which no view or layer knows")
		id, err := snapshot.ParseID(n)
		if err != nil {
			err = d.remove(ctx, filepath.Join(d.abs(viewsDir), n))
		} else {
			err = d.removeID(ctx, id)
		}
		if err != nil {
			report = append(report, err.Error())
		}
	}
	if err := d.strays(ctx, known, &report); err != nil {
		report = append(report, err.Error())
	}
	if err := d.emptyTrash(ctx); err != nil {
		report = append(report, err.Error())
	}
	return report, ctx.Err()
}

// strays deletes what of unknown ids the graph still has.
func (d *graphDriver) strays(ctx context.Context, known map[string]bool, report *[]string) error {
	ids, err := d.graph.Layers()
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range ids {
		id := strings.TrimLeft(g, fixupPrefix+flatPrefix)
		if _, err := snapshot.ParseID(id); err != nil || known[id] {
			continue // not ours, or alive
		}
		*report = append(*report, "deleted layer "+g+", which no view or layer knows")
		errs = append(errs, d.removeGraph(ctx, g))
	}
	return errors.Join(errs...)
}

// endAll ends every mount below the root, and every overlay of the graph's
// directories wherever it is mounted.
func (d *graphDriver) endAll(ctx context.Context, report *[]string) error {
	all, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(all) {
		ours := m.fstype == "overlay" && slices.ContainsFunc(m.dirs, func(dir string) bool { return inside(dir, d.home) })
		if !ours && !inside(m.point, d.root) {
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
		if ours && !inside(m.point, d.home) {
			os.Remove(m.point) //nolint:errcheck // a mount point of use to nobody
		}
	}
	return nil
}
