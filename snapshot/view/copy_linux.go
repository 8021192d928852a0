package view

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// bind shows dir read-only at target, if this process may mount.
func (d *Copy) bind(ctx context.Context, dir, target string) (io.Closer, bool) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd) //nolint:errcheck // a reference; the mount stays
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr) != nil ||
		unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH) != nil {
		return nil, false
	}
	return closer(func() error {
		if err := d.o.unmount(context.WithoutCancel(ctx), target, d.o.SealWait); err != nil {
			return err
		}
		os.Remove(target) //nolint:errcheck // a mount point of use to nobody
		return nil
	}), true
}

func (d *Copy) endMounts(ctx context.Context, report *[]string) error {
	_, err := d.o.reconcileMounts(ctx, d.root, d.kept, report)
	return err
}

// syncAll makes everything on f's file system durable, f's own directory included.
func syncAll(f *os.File, _ string) error { return unix.Syncfs(int(f.Fd())) }
