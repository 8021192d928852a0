package erofs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/loopdev"
	"github.com/roost-ci/roost/snapshot/view/internal/fsmount"
)

// Mount shows the image, read-only, at the directory target. Devices are the
// bundles in the order of Options.Devices. It checks sizes first (CheckDevices).
//
// Mounts of one image are separate file systems with separate caches: mount once
// and share that. A bundle may be unlinked while it is mounted.
func Mount(m Method, image string, devices []string, target string) error {
	mnt, err := Detached(m, image, devices)
	if err != nil {
		return err
	}
	return attach(mnt, target)
}

func attach(mnt *os.File, target string) error {
	defer mnt.Close() //nolint:errcheck // a reference; the mount stays
	fail.Point("erofs.mount.detached")
	if err := fsmount.Attach(mnt, target); err != nil {
		return err
	}
	fail.Point("erofs.mount.attached")
	return nil
}

// Detached makes the mount without showing it anywhere. The file is its root
// directory; when it is closed, and nothing else stands on it, the mount is gone.
func Detached(m Method, image string, devices []string) (*os.File, error) {
	if err := CheckDevices(image, devices); err != nil {
		return nil, err
	}
	switch m {
	case FileBacked:
		return mountFiles(image, devices)
	case Loop:
		return new(Loops).mount(image, devices)
	}
	return nil, fmt.Errorf("erofs: unknown method %q", m)
}

// mountFiles goes through the mount API: options of mount(2) end at one page,
// which is some 40 devices.
func mountFiles(image string, devices []string) (*os.File, error) {
	fs, err := fsmount.Open("erofs")
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	if err := fs.Set("source", image); err != nil {
		return nil, err
	}
	for _, d := range devices {
		if err := fs.Set("device", d); err != nil {
			return nil, err
		}
	}
	// Else a read-only loop device is opened for writing, and refused.
	if err := fs.Flag("ro"); err != nil {
		return nil, err
	}
	if err := fs.Create(); err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	// nosuid and nodev make inert what a job could smuggle into a tree.
	return fs.Mount(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
}

// attachLoop makes path a read-only loop device that is given back by its last
// user.
func attachLoop(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	defer f.Close() //nolint:errcheck // the device holds it
	var c unix.LoopConfig
	c.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	d, err := loopdev.Attach(f, os.O_RDONLY, c)
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	return d, nil
}
