package erofs

import (
	"errors"
	"fmt"
	"os"
)

// Method is a way to mount an image.
type Method string

// The methods, best first.
const (
	// FileBacked reads image and bundles as files, Linux 6.12 and later.
	FileBacked Method = "file"
	// Loop puts a loop device before each of them, Linux 6.5 and later.
	Loop Method = "loop"
)

// ErrDevices says that a bundle is not what the image needs. Mounted all the
// same, reads beyond a short bundle's end would fail with EIO, or give zeros with
// no error, as reads from a hole do.
var ErrDevices = errors.New("a bundle lacks bytes that the image refers to")

// DeviceError says which bundle is not as it should be.
type DeviceError struct {
	Path string
	Err  error // wraps ErrDevices, or says why the bundle can't be looked at
}

func (e *DeviceError) Error() string { return fmt.Sprintf("bundle %s: %v", e.Path, e.Err) }

// Unwrap returns Err.
func (e *DeviceError) Unwrap() error { return e.Err }

// CheckDevices makes sure that every device holds the bytes that image needs of
// it: as a file long enough and without holes in that part, since an absent
// bundle grows in order and is never sparse. It reads no content. What is
// wrong with a bundle is a *DeviceError.
func CheckDevices(image string, devices []string) error {
	f, err := os.Open(image)
	if err != nil {
		return fmt.Errorf("erofs: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	m, err := Open(f)
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("erofs: %w", err)
	}
	if fi.Size() < m.Bytes() {
		return fmt.Errorf("image %s: %w: %d of %d bytes", image, ErrNotImage, fi.Size(), m.Bytes())
	}
	if len(devices) != len(m.Devices) {
		return fmt.Errorf("image %s: made for %d devices, not for %d", image, len(m.Devices), len(devices))
	}
	for i, d := range devices {
		if err := checkDevice(d, m.Devices[i].Bytes); err != nil {
			return fmt.Errorf("image %s: %w", image, &DeviceError{Path: d, Err: err})
		}
	}
	return nil
}

func checkDevice(path string, need int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%w: not a file", ErrDevices)
	}
	if fi.Size() < need {
		return fmt.Errorf("%w: it has %d bytes, %d are needed", ErrDevices, fi.Size(), need)
	}
	hole, err := firstHole(f, fi.Size())
	if err != nil {
		return err
	}
	if hole < need {
		return fmt.Errorf("%w: it has a hole at %d, below %d", ErrDevices, hole, need)
	}
	return nil
}
