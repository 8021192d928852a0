package view

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
	"github.com/roost-ci/roost/snapshot/view/internal/fsmount"
)

// alone reports whether the image of l shows all of it without an overlay: nothing lies
// above it, and no file of it is reached by reference. Whoever only looks is spared the
// overlay's own inode for each entry then, which is a third of what it takes to read many small files.
//
// A loop device would hide from the next process whose image is mounted.
func (m *images) alone(l *Layer) bool {
	return m != nil && m.method == erofs.FileBacked && l.Image != "" && len(l.Lowers) == 0 && len(l.Data) == 0
}

// show mounts the image rel at target, beside what else is made of it.
func (m *images) show(ctx context.Context, rel, target string) error {
	at, done, err := m.use(ctx, rel)
	if err != nil {
		return err
	}
	defer done()
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("image %s: open %s: %w", rel, at, err)
	}
	mnt := os.NewFile(uintptr(fd), "image "+rel)
	defer mnt.Close() //nolint:errcheck // a reference; the mount stays
	fail.Point("view.mount.detached")
	if err := fsmount.Attach(mnt, target); err != nil {
		return err
	}
	fail.Point("view.mount.attached")
	return private(target)
}
