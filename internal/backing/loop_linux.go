package backing

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/loopdev"
)

// mountAt returns the device of what dir lies on and whether dir is the root of a
// mount.
func mountAt(dir string) (dev uint64, root bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
		return 0, false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	dev = unix.Mkdev(st.Dev_major, st.Dev_minor)
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return dev, st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	var up unix.Stat_t // before Linux 5.8
	if err := unix.Stat(filepath.Dir(dir), &up); err != nil {
		return 0, false, &os.PathError{Op: "stat", Path: filepath.Dir(dir), Err: err}
	}
	return dev, up.Dev != dev, nil //nolint:unconvert // differs by architecture
}

// loopName is the loop device with that number, "" if it is none.
func loopName(dev uint64) string {
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev)))
	if err != nil || !strings.HasPrefix(filepath.Base(link), "loop") {
		return ""
	}
	return "/dev/" + filepath.Base(link)
}

// backs reports whether image is the file behind a loop device.
func backs(device, image string) (bool, error) {
	d, err := os.Open(device)
	if err != nil {
		return false, err
	}
	defer d.Close() //nolint:errcheck // only asked
	file, err := loopdev.FileAt(image)
	if err != nil {
		return false, err
	}
	info, err := loopdev.Of(d, file)
	return info != nil, err
}

// attach returns a loop device on image: the one that has it, or a new one. It goes
// by itself when nobody uses it any more, so it must stay open until it is mounted.
func attach(image string, sector uint32) (*os.File, error) {
	if d, err := attached(image); err != nil || d != nil {
		return d, err
	}
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // the device holds it
	c := unix.LoopConfig{Size: sector}
	copy(c.Info.File_name[:len(c.Info.File_name)-1], image)
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	direct := c // without a second page cache, if that can be
	direct.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	return loopdev.Attach(f, os.O_RDWR, direct, c)
}

// attached looks for a loop device that has image already: a mount of another
// namespace may keep it, and a second device on one file would be a second opinion
// of what is in it.
func attached(image string) (*os.File, error) {
	file, err := loopdev.FileAt(image)
	if err != nil {
		return nil, err
	}
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		device := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(name)))
		d, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			continue // gone meanwhile, or not ours to open
		}
		if info, err := loopdev.Of(d, file); err == nil && info != nil {
			return d, nil
		}
		d.Close() //nolint:errcheck // only asked
	}
	return nil, nil
}

// setCapacity tells a loop device that its file has grown.
func setCapacity(device string) error {
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // nothing to lose
	if err := unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("%s: set capacity: %w", device, err)
	}
	return nil
}

// directIO reports whether a loop device bypasses the page cache of its file.
func directIO(device string) bool {
	d, err := os.Open(device)
	if err != nil {
		return false
	}
	defer d.Close() //nolint:errcheck // only asked
	info, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
	return err == nil && info.Flags&unix.LO_FLAGS_DIRECT_IO != 0
}

// fsBytes is the size of the XFS that is mounted at dir: its data blocks. The
// superblock in the file may not know yet that it has grown.
func fsBytes(dir string) (int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close() //nolint:errcheck // only asked
	// struct xfs_fsop_geom_v1 of 112 bytes: the block size first, the number of data
	// blocks behind eight such words.
	const geometry = 2<<30 | 112<<16 | 'X'<<8 | 100 // XFS_IOC_FSGEOMETRY_V1
	var g [112]byte
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), geometry, uintptr(unsafe.Pointer(&g)))
	if errno != 0 {
		return 0, &os.PathError{Op: "size of the XFS at", Path: dir, Err: errno}
	}
	ne := binary.NativeEndian
	return int64(ne.Uint64(g[32:])) * int64(ne.Uint32(g[:])), nil
}

// super is what the superblock says.
type super struct{ sector uint32 }

// readSuper reads the superblock of an image, and refuses what has none.
func readSuper(image string) (super, error) {
	f, err := os.OpenFile(image, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return super{}, err
	}
	defer f.Close() //nolint:errcheck // only read from
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return super{}, fmt.Errorf("%w: %s is not a regular file", ErrForeign, image)
	}
	var b [104]byte
	if _, err := io.ReadFull(f, b[:]); err != nil || string(b[:4]) != "XFSB" {
		return super{}, fmt.Errorf("%w: %s is no XFS; it is left as it is: move it away, or choose another store directory", ErrForeign, image)
	}
	be := binary.BigEndian
	s := super{uint32(be.Uint16(b[102:]))}
	if s.sector < 512 || s.sector > 4096 || s.sector&(s.sector-1) != 0 {
		return super{}, fmt.Errorf("%w: %s has a damaged superblock", ErrForeign, image)
	}
	return s, nil
}
