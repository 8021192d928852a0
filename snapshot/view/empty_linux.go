package view

import (
	"context"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// moveNew moves a name to one that there must not be.
func moveNew(from int, name string, to int, as string) error {
	return unix.Renameat2(from, name, to, as, unix.RENAME_NOREPLACE)
}

// endMountsBelow unmounts what is mounted below dir, not what is mounted at it.
func (o Options) endMountsBelow(ctx context.Context, dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	mounts, err := mountsAt(dir)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].point == dir {
			continue
		}
		if err := o.unmount(ctx, mounts[i].point, o.SealWait); err != nil {
			return err
		}
	}
	return nil
}
