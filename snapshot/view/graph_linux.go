package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

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
func (d *graphDriver) Prepare(ctx context.Context, spec Spec) (*View, error) {
	return d.frame().prepare(ctx, spec, d.Discard, func(v *View) error {
		parent, lowers, err := d.stand(ctx, spec)
		if err != nil {
			return err
		}
		v.Layer.Lowers = append([]string{v.Layer.Dir}, lowers...)
		look, err := d.lookOf(spec.ID, parent, spec.UID, spec.GID)
		if err != nil {
			return err
		}
		if _, err := d.create(spec.ID, upperPrefix, string(spec.ID), parent, look); err != nil {
			return err
		}
		fail.Point("view.prepare.upper")
		if err := d.mount(string(spec.ID), v.Target, "volatile"); err != nil {
			return err
		}
		d.ov.remember(spec.ID, v.Target)
		return nil
	})
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
	if spec.Fanin == nil {
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
