package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// Erofs makes views of overlay mounts that stand on EROFS images. What a job
// changed is an overlay layer as Overlay has it, and becomes an image later; a
// layer from elsewhere is an image from the start, and its files are never made.
// It shows layers of the overlay driver too.
type Erofs struct{ *Overlay }

// NewErofs opens the erofs driver for the store at root. ErrUnavailable says why
// each way of mounting an image does not work here.
func NewErofs(root string, o Options) (Driver, error) {
	return openErofs(root, o, "")
}

// openErofs mounts images by the method want, "" for the best that works.
func openErofs(root string, o Options, want erofs.Method) (Driver, error) {
	base, err := openOverlay(root, o)
	if err != nil {
		return nil, err
	}
	if base.o.NoDataDirs {
		return nil, fmt.Errorf("%w: erofs: this kernel has no data-only overlay directories (Linux 6.8)", ErrUnavailable)
	}
	if err := durable.MkdirEach(base.root, 0o700, mntDir, imagesDir); err != nil {
		return nil, fmt.Errorf("view root: %w", err)
	}
	if want == "" {
		ctx := context.Background() //nolint:forbidigo // a probe takes milliseconds and has no caller to stop it
		if want, err = erofs.Probe(ctx, base.abs(trashDir)); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	base.images = newImages(base.layout, base.o, want)
	return &Erofs{base}, nil
}

// Name returns "erofs".
func (d *Erofs) Name() string { return NameErofs }

// Close unmounts the images that are only kept because they are hot. Views stay.
func (d *Erofs) Close() error {
	d.images.dropAll()
	d.pins.dropAll()
	return d.Overlay.Close()
}

// DropCached implements Cacher.
func (d *Erofs) DropCached() { d.images.cache.empty() }

// Reconcile implements Driver. Images that an earlier process had mounted are
// unmounted like all else below the root.
func (d *Erofs) Reconcile(ctx context.Context, layers, views []snapshot.ID) ([]string, error) {
	d.images.dropAll()
	d.images.cache.empty()
	report, err := d.Overlay.Reconcile(ctx, layers, views)
	if err != nil {
		return report, err
	}
	names, err := readNames(d.abs(mntDir))
	if err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	for _, n := range names {
		os.Remove(filepath.Join(d.abs(mntDir), n)) //nolint:errcheck // one that is still mounted stays, and is in the report
	}
	return report, nil
}

// Changes implements Driver. What a layer from elsewhere changed is not kept as a
// directory: its list of changes came with it.
func (d *Erofs) Changes(ctx context.Context, l *Layer, base *snapshot.Manifest) ([]snapshot.Change, error) {
	if err := d.checkOwnTree(l); err != nil {
		return nil, err
	}
	return d.Overlay.Changes(ctx, l, base)
}

// checkOwnTree refuses a layer whose own directory is not what its job left.
func (d *Erofs) checkOwnTree(l *Layer) error {
	if err := checkLayer(l); err != nil {
		return err
	}
	if packed, err := d.isPacked(l.ID); err != nil {
		return fmt.Errorf("changes of %s: %w", l.ID, err)
	} else if packed {
		return fmt.Errorf("changes of %s: %w", l.ID, errPacked)
	}
	if pruned, err := d.isPruned(l.ID); err != nil {
		return fmt.Errorf("changes of %s: %w", l.ID, err)
	} else if pruned {
		return fmt.Errorf("changes of %s: %w", l.ID, errPruned)
	}
	return nil
}

var errPacked = errors.New("it was unpacked without a file per entry: only the list that it was made from tells its changes")

// isPacked reports whether a layer's own directory holds a bundle and objects.
func (d *Erofs) isPacked(id snapshot.ID) (bool, error) {
	_, err := os.Lstat(filepath.Join(d.dir(id), packedName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Locate implements Driver.
func (d *Erofs) Locate(l *Layer, changes []snapshot.Change) {
	if packed, err := d.isPacked(l.ID); err == nil && !packed {
		d.Overlay.Locate(l, changes)
		return
	}
	plan := layBundle(changes)
	if d.isJoined(l.ID) {
		plan.join()
	}
	plan.locate(d.abs(l.Dir), changes)
}

// isJoined reports whether the large files of a layer that isPacked are in its bundle.
func (d *Erofs) isJoined(id snapshot.ID) bool {
	b, err := os.ReadFile(filepath.Join(d.dir(id), packedName))
	return err == nil && string(b) == joinedMark
}
