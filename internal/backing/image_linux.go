package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
)

// newSuffix marks an image that is not formatted yet. Whatever has it was left by
// a crash and never had data.
const newSuffix = ".new"

// create makes and formats the image under another name first.
func (o Options) create(ctx context.Context) (err error) {
	mkfs, err := tool("mkfs.xfs")
	if err != nil {
		return err
	}
	size := o.Size
	if size == 0 {
		if size, err = half(filepath.Dir(o.Image)); err != nil {
			return err
		}
	}
	tmp := o.Image + newSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(tmp) //nolint:errcheck // deleted at the next try
		}
	}()
	if err := reserve(f, 0, size, o.Sparse); err != nil {
		return err
	}
	fail.Point("backing.reserved")
	// 4096-byte sectors: direct I/O works on disks that have those, too.
	out, err := exec.CommandContext(ctx, mkfs, "-q", "-f", "-m", "reflink=1,crc=1", "-s", "size=4096", "-L", "roost", tmp).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.xfs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := f.Sync(); err != nil {
		return err
	}
	fail.Point("backing.formatted")
	return durable.Rename(tmp, o.Image)
}

// half is half of what is free at dir.
func half(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	size := int64(fs.Bavail) * fs.Bsize / 2 //nolint:unconvert // differs by architecture
	size -= size % (1 << 20)
	if size < MinSize {
		return 0, fmt.Errorf("only %d bytes are free at %s, twice %d are needed", 2*size, dir, int64(MinSize))
	}
	return size, nil
}

// reserve makes f size bytes long from old on.
func reserve(f *os.File, old, size int64, sparse bool) error {
	if sparse {
		return f.Truncate(size)
	}
	err := unix.Fallocate(int(f.Fd()), 0, old, size-old)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%s: space can't be reserved on this file system; set store.backing_space to sparse", f.Name())
	}
	if err != nil {
		return fmt.Errorf("reserve %d bytes for %s: %w", size-old, f.Name(), err)
	}
	return nil
}

// extend makes the image as big as configured.
func (o Options) extend(st *Status) error {
	f, err := os.OpenFile(o.Image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // synced before it counts
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st.Size = fi.Size()
	switch {
	case o.Size == 0 || o.Size == st.Size:
		return nil
	case o.Size < st.Size:
		o.Log.Warn("the store's backing file is not made smaller: XFS can't shrink", "image", o.Image, "bytes", st.Size, "configured", o.Size)
		return nil
	}
	if err := reserve(f, st.Size, o.Size, o.Sparse); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	fail.Point("backing.extended")
	st.Size = o.Size
	return nil
}

// grow makes the mounted file system as big as its image.
func (o Options) grow(ctx context.Context, st *Status) error {
	if err := o.extend(st); err != nil {
		return err
	}
	have, err := fsBytes(o.Dir)
	if err != nil {
		return err
	}
	const group = 16 << 20 // less than this at the end may belong to no group
	if st.Size-have < group {
		return nil
	}
	if err := setCapacity(st.Device); err != nil {
		return err
	}
	growfs, err := tool("xfs_growfs")
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, growfs, "-d", o.Dir).CombinedOutput(); err != nil {
		return fmt.Errorf("xfs_growfs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	fail.Point("backing.grown")
	st.Grown = true
	return nil
}
