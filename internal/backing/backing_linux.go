package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
)

// Check tells why no backing could be made on this host, nil if it could.
func Check() error {
	if os.Geteuid() != 0 {
		return ErrRoot
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
		return st, ErrRoot
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
	// could smuggle into a tree.
	err = unix.Mount(st.Device, o.Dir, "xfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, opts)
	if err != nil {
		return fmt.Errorf("mount %s: %w; the file is left as it is (xfs_repair -n %s tells more)", o.Image, err, o.Image)
	}
	fail.Point("backing.mounted")
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
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
