package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

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
