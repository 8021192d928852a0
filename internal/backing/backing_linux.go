package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
)

// newSuffix marks an image that is not formatted yet. Whatever has it was left by
// a crash and never had data.
const newSuffix = ".new"

// Check tells why no backing could be made on this host, nil if it could.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("loop devices need root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fmt.Errorf("no loop devices: %w", err)
	}
	_, err := tool("mkfs.xfs")
	return err
}

// tool finds a program of xfsprogs.
func tool(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %s, of the package xfsprogs", ErrTool, name)
	}
	return p, nil
}

// Ensure makes sure that o.Dir is the file system in o.Image.
//
// Crash states, in order:
//  1. <image>.new exists: deleted and made anew.
//  2. the image has its name: it is formatted and whole; the next call mounts it.
//  3. mounted: the next call finds that. A mount of a process that died stays.
//  4. the image has grown and the file system has not: the next call grows it.
func Ensure(ctx context.Context, o Options) (Status, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Status{}, err
	}
	if !filepath.IsAbs(o.Dir) || !filepath.IsAbs(o.Image) {
		return Status{}, fmt.Errorf("backing of %s: want absolute paths", o.Dir)
	}
	st, err := o.ensure(ctx)
	if err != nil {
		return st, fmt.Errorf("backing of %s: %w", o.Dir, err)
	}
	return st, nil
}

func (o Options) ensure(ctx context.Context) (st Status, err error) {
	if os.Geteuid() != 0 {
		return st, errors.New("loop devices need root")
	}
	for _, dir := range []string{filepath.Dir(o.Image), o.Dir} {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return st, err
		}
	}
	unlock, err := lockDir(filepath.Dir(o.Image))
	if err != nil {
		return st, err
	}
	defer unlock()
	st.Device, err = o.mounted()
	if err != nil {
		return st, err
	}
	if st.Device == "" {
		if err := o.mount(ctx, &st); err != nil {
			return st, err
		}
	}
	if err := o.grow(ctx, &st); err != nil {
		return st, err
	}
	st.DirectIO = directIO(st.Device)
	if st.Made || st.Grown {
		o.Log.Info("store's backing file", "image", o.Image, "bytes", st.Size, "device", st.Device, "direct_io", st.DirectIO)
	}
	return st, nil
}

// lockDir keeps two agents that start at once from making two images.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close() //nolint:errcheck // only held as a lock
		return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return func() { f.Close() }, nil
}

// mounted returns the device on which o.Dir is, "" if nothing is mounted there.
func (o Options) mounted() (string, error) {
	dev, root, err := mountAt(o.Dir)
	if err != nil || !root {
		return "", err
	}
	name := loopName(dev)
	if name == "" {
		return "", fmt.Errorf("%w: another file system is mounted at %s; unmount it, or let the store's directory be one below it", ErrForeign, o.Dir)
	}
	ours, err := backs(name, o.Image)
	if err != nil {
		return "", err
	}
	if !ours {
		return "", fmt.Errorf("%w: at %s is %s, whose file is not %s", ErrForeign, o.Dir, name, o.Image)
	}
	return name, nil
}

// mount attaches the image, made if there is none, and mounts it.
func (o Options) mount(ctx context.Context, st *Status) error {
	names, err := os.ReadDir(o.Dir)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fmt.Errorf("%w: the directory has files (%s), which a mount would hide; move them away, or leave store.backing at none", ErrForeign, names[0].Name())
	}
	if _, err := os.Lstat(o.Image); errors.Is(err, os.ErrNotExist) {
		if err := o.create(ctx); err != nil {
			return err
		}
		st.Made = true
	} else if err != nil {
		return err
	}
	sb, err := readSuper(o.Image)
	if err != nil {
		return err
	}
	if err := o.extend(st); err != nil {
		return err
	}
	dev, err := attach(o.Image, sb.sector)
	if err != nil {
		return err
	}
	defer dev.Close() //nolint:errcheck // the mount holds it
	st.Device = dev.Name()
	opts := ""
	if o.Sparse {
		opts = "discard" // what is deleted is given back to the host
	}
	// Views of the copying drivers lie on it: nosuid and nodev make inert what a job
	// could smuggle into a tree (S11).
	err = unix.Mount(st.Device, o.Dir, "xfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, opts)
	if err != nil {
		return fmt.Errorf("mount %s: %w; the file is left as it is (xfs_repair -n %s tells more)", o.Image, err, o.Image)
	}
	fail.Point("backing.mounted")
	return nil
}

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

// Release unmounts the backing of dir, if it is mounted there; image "" stands for
// ImageOf(dir). The file stays. Something else that is mounted is ErrForeign.
func Release(ctx context.Context, dir, image string) error {
	o, err := Options{Dir: dir, Image: image}.withDefaults()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(o.Image); errors.Is(err, os.ErrNotExist) {
		return nil // there never was one
	}
	dev, err := o.mounted()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || dev == "" {
		return err
	}
	// Never lazily: what still writes would go on writing to a file that is deleted.
	for wait := 5 * time.Millisecond; ; wait *= 2 {
		if err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) || wait > 2*time.Second {
			break
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
