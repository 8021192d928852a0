package loopdev

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// File tells a file from all others, whatever its name.
type File struct{ Device, Inode uint64 }

// FileAt is the file at a path, links followed.
func FileAt(path string) (File, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return File{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return File{uint64(st.Dev), st.Ino}, nil //nolint:unconvert // differs by architecture
}

// tries is how many devices others may take before us: GET_FREE names one, and only
// configuring it makes it ours.
const tries = 100

// Attach puts f behind a free loop device, opened as os.OpenFile takes mode. The first of
// ways that the kernel takes counts; Fd is filled in. With LO_FLAGS_AUTOCLEAR the device
// goes when the last one closes it, so the caller keeps it open until it is mounted.
func Attach(f *os.File, mode int, ways ...unix.LoopConfig) (*os.File, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("no loop devices: %w", err)
	}
	defer ctl.Close() //nolint:errcheck // only asked
	for range tries {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		d, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), mode, 0)
		if err != nil {
			return nil, err
		}
		if err = configure(d, f, ways); err == nil {
			return d, nil
		}
		d.Close() //nolint:errcheck // not used
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("%s: %w", d.Name(), err)
		}
	}
	return nil, errors.New("no free loop device: others take them all")
}

func configure(d, f *os.File, ways []unix.LoopConfig) (err error) {
	for _, c := range ways {
		c.Fd = uint32(f.Fd())
		if err = unix.IoctlLoopConfigure(int(d.Fd()), &c); err == nil || errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

// Of tells what a device is if f, in whole or in part, is the file behind it. It is nil if
// another file is, or none.
func Of(device *os.File, f File) (*unix.LoopInfo64, error) {
	info, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device.Name(), err)
	}
	if info.Device != f.Device || info.Inode != f.Inode {
		return nil, nil
	}
	return info, nil
}
