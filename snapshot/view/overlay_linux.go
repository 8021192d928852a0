package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// maxStack is how many directories, data-only ones included, a mount may have.
// The kernel ends at 500.
const maxStack = 480

// maxRootBytes bounds the root's path: the kernel takes at most 255 bytes for one
// layer's, and ours add up to 64.
const maxRootBytes = 180

// Overlay makes views of overlay mounts.
type Overlay struct {
	layout
	o Options

	// images is nil in the overlay driver itself. The erofs driver stands on this
	// one, with images as the lowest of a stack.
	images *images

	held  held
	pins  pins
	works works

	// mu guards all below. It is not held across I/O.
	mu sync.Mutex
	// mounts holds the unique mount id of each view that this process mounted. It
	// spares Seal a look through all mounts of the machine, and says no more than
	// that look would.
	mounts map[snapshot.ID]uint64
	kept   kept
}

// NewOverlay opens the overlay driver for the store at root: Linux, with the
// right to mount. One process may use a root at a time.
func NewOverlay(root string, o Options) (Driver, error) {
	d, err := openOverlay(root, o)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func openOverlay(root string, o Options) (*Overlay, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: overlay mounts need root", ErrUnavailable)
	}
	l, err := openLayout(root)
	if err != nil {
		return nil, err
	}
	if len(l.root) > maxRootBytes {
		return nil, fmt.Errorf("%w: overlay: the store's path has %d bytes, at most %d work", ErrUnavailable, len(l.root), maxRootBytes)
	}
	o = o.withDefaults()
	if !o.NoDataDirs && !haveDataDirs() {
		o.NoDataDirs = true
		o.Log.Info("this kernel has no data-only overlay directories: merged views copy their files")
	}
	return &Overlay{layout: l, o: o, mounts: map[snapshot.ID]uint64{}}, nil
}

// Name returns "overlay".
func (d *Overlay) Name() string { return NameOverlay }

func (d *Overlay) scan() tree.ScanOptions { return tree.ScanOptions{Owners: d.o.Owners} }

// absAll resolves relative layer directories.
func (d *Overlay) absAll(rel []string) []string {
	out := make([]string, len(rel))
	for i, r := range rel {
		out[i] = d.abs(r)
	}
	return out
}

// checkShown refuses a layer with which no view can be made.
func (d *Overlay) checkShown(l *Layer) error {
	if err := checkLayer(l); err != nil || l == nil {
		return err
	}
	if len(l.Lowers) == 0 && l.Image == "" {
		return fmt.Errorf("layer %s: it has no image, and no directories to show instead", l.ID)
	}
	if l.Image != "" && d.images == nil {
		return fmt.Errorf("layer %s: it has an image, which the driver %q can't show", l.ID, NameOverlay)
	}
	return nil
}

// stackOf is the read-only stack of a layer; nil is an empty tree. The empty
// directory below it makes a stack of one mountable, and is what an empty view
// stands on. done must be called once the stack is mounted or given up.
func (d *Overlay) stackOf(ctx context.Context, l *Layer) (s stack, done func(), err error) {
	done = func() {}
	if l != nil {
		s.lowers, s.data = d.absAll(l.Lowers), d.absAll(l.Data)
		if l.Image != "" {
			var at string
			if at, done, err = d.images.use(ctx, l.Image); err != nil {
				return s, nil, err
			}
			s.lowers = append(s.lowers, at)
		}
	}
	s.lowers = append(s.lowers, d.abs(emptyDir))
	return s, done, nil
}

// show mounts a layer read-only at target, which must exist.
func (d *Overlay) show(ctx context.Context, l *Layer, target string) error {
	if d.images.alone(l) {
		return d.images.show(ctx, l.Image, target)
	}
	s, done, err := d.stackOf(ctx, l)
	if err != nil {
		return err
	}
	defer done()
	return mountStack(s, target, d.o.NoDataDirs)
}

// resolved returns v's target without links; "" when there is none.
func (v *View) resolved() string {
	if !filepath.IsAbs(v.Target) {
		return ""
	}
	t, err := filepath.EvalSymlinks(v.Target)
	if err != nil {
		return ""
	}
	return t
}

// remember notes which mount is id's view.
func (d *Overlay) remember(id snapshot.ID, target string) {
	if mnt := mountID(target); mnt != 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mounts[id] = mnt
	}
}

func (d *Overlay) forget(id snapshot.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.mounts, id)
}

// where returns the point at which v's own overlay is mounted, "" if it is not.
// Something else that is mounted at its target is none of ours and is left alone.
func (d *Overlay) where(v *View) (string, error) {
	d.mu.Lock()
	known := d.mounts[v.ID]
	d.mu.Unlock()
	if t := v.resolved(); t != "" && known != 0 && mountID(t) == known {
		return t, nil
	}
	mounts, err := readMounts()
	if err != nil {
		return "", err
	}
	upper := d.abs(part(v.ID, upperPrefix))
	for _, m := range mounts {
		if m.shows(upper) {
			return m.point, nil
		}
	}
	return "", nil
}

// Resume implements Resumer.
func (d *Overlay) Resume(_ context.Context, v *View) error {
	if err := checkView(v); err != nil {
		return err
	}
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	upper := d.abs(part(v.ID, upperPrefix))
	if !slices.ContainsFunc(mounts, func(m mountEntry) bool { return m.point == v.Target && m.shows(upper) }) {
		return fmt.Errorf("view %s is not mounted at %s: %w", v.ID, v.Target, snapshot.ErrNotFound)
	}
	// A seal that was cut short may have made it read-only.
	if err := setReadOnly(v.Target, false); err != nil {
		return fmt.Errorf("resume %s: %w", v.ID, err)
	}
	if err := d.held.keep(v.ID, d.dir(v.ID)); err != nil {
		return err
	}
	d.remember(v.ID, v.Target)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = append(d.kept, keptView{upper, v.Target})
	return nil
}

// Seal implements Driver.
//
// Crash states: before the unmount returned the view is open, or mounted
// read-only, and Reconcile unmounts it; after it, it is sealed. The work directory goes
// behind the answer, or at the next Reconcile.
func (d *Overlay) Seal(ctx context.Context, v *View) error {
	if err := checkView(v); err != nil {
		return err
	}
	t, err := d.where(v)
	if err != nil {
		return fmt.Errorf("seal %s: %w", v.ID, err)
	}
	if t != "" {
		if err := d.endMount(ctx, t); err != nil {
			return fmt.Errorf("seal %s: %w", v.ID, err)
		}
		d.forget(v.ID)
		d.pins.dropSoon(v.ID)
		unix.Rmdir(t) //nolint:errcheck // a mount point of use to nobody; it may be somebody's
	}
	fail.Point("view.seal.unmounted")
	if fi, err := os.Lstat(d.abs(v.Layer.Dir)); err != nil {
		return fmt.Errorf("seal %s: %w", v.ID, err)
	} else if !fi.IsDir() {
		return fmt.Errorf("seal %s: %s is not a directory", v.ID, v.Layer.Dir)
	}
	d.works.shredSoon(ctx, v.ID, d.shredWork)
	return nil
}

// endMount makes the overlay at t read-only and unmounts it. When somebody can
// still write, or holds the mount, all is as before and the error is ErrBusy.
func (d *Overlay) endMount(ctx context.Context, t string) error {
	err := d.o.retryBusy(ctx, d.o.SealWait, func() error { return setReadOnly(t, true) })
	if err != nil {
		return err
	}
	fail.Point("view.seal.readonly")
	err = unix.Unmount(t, unix.UMOUNT_NOFOLLOW)
	if err == nil {
		return nil
	}
	// Something is mounted in it, or somebody has it as working directory.
	if err := d.o.unmount(ctx, t, d.o.SealWait); err != nil {
		if rerr := setReadOnly(t, false); rerr != nil {
			err = errors.Join(err, rerr)
		}
		return err
	}
	return nil
}

// Discard implements Driver. The view's processes must be gone: as at a seal it
// is an error, ErrBusy, if they are not.
func (d *Overlay) Discard(ctx context.Context, v *View) error {
	return d.frame().discard(ctx, v, func() error {
		t, err := d.where(v)
		if err != nil || t == "" {
			return err
		}
		if err := d.endMount(ctx, t); err != nil {
			return err
		}
		d.forget(v.ID)
		os.Remove(t) //nolint:errcheck // as in Seal
		d.pins.drop(v.ID)
		return nil
	})
}

func (d *Overlay) frame() frame {
	return frame{layout: d.layout, held: &d.held, log: d.o.Log, erase: d.removeID}
}

// removeID deletes all that belongs to id, mounts of its base included.
func (d *Overlay) removeID(ctx context.Context, id snapshot.ID) error {
	d.works.wait(id)
	d.held.drop(id)
	d.pins.drop(id)
	if d.images != nil {
		d.images.cache.forget(id)
		d.images.drop(part(id, imagePrefix))
		d.images.drop(part(id, startPrefix))
	}
	if _, err := os.Lstat(filepath.Join(d.dir(id), baseName)); err == nil {
		if err := d.o.unmount(ctx, d.dir(id), d.o.SealWait); err != nil {
			return err
		}
	}
	return d.remove(ctx, d.dir(id))
}

// Locate implements Driver.
func (d *Overlay) Locate(l *Layer, changes []snapshot.Change) { locate(d.layout, l, changes) }

// Mount implements Driver.
func (d *Overlay) Mount(ctx context.Context, l *Layer, target string) (io.Closer, error) {
	if err := d.checkShown(l); err != nil {
		return nil, err
	}
	if l.Image != "" { // also one that is mounted already: who verifies comes by here
		if _, err := checkImage(d.abs(l.Image)); err != nil {
			return nil, fmt.Errorf("mount %s: %w", l.ID, err)
		}
	}
	t, err := makeTarget(target)
	if err != nil {
		return nil, err
	}
	if err := d.show(ctx, l, t); err != nil {
		return nil, fmt.Errorf("mount %s: %w", l.ID, err)
	}
	return closer(func() error {
		if err := d.o.unmount(context.WithoutCancel(ctx), t, d.o.SealWait); err != nil {
			return err
		}
		os.Remove(t) //nolint:errcheck // as in Seal
		return nil
	}), nil
}

// Sync implements Driver. An error is final: the layer must not be trusted, and a
// second call may say yes to lost bytes.
func (d *Overlay) Sync(ctx context.Context, l *Layer) error { return d.frame().sync(ctx, l) }

// Remove implements Driver.
func (d *Overlay) Remove(ctx context.Context, l *Layer) error { return d.frame().remove(ctx, l) }
