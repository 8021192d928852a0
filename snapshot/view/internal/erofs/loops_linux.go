package erofs

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/loopdev"
)

// Loops mounts by loop devices and lets mounts share those of their bundles: a bundle
// takes one device, in however many images it is. A device is the kernel's: it goes
// with the last mount that has it, also when this process is gone. The zero Loops has
// none yet.
type Loops struct {
	mu    sync.Mutex
	known map[loopdev.File]string // what was a file's device
}

// Mount is the function Mount by the method Loop.
func (l *Loops) Mount(image string, devices []string, target string) error {
	if err := CheckDevices(image, devices); err != nil {
		return err
	}
	mnt, err := l.mount(image, devices)
	if err != nil {
		return err
	}
	return attach(mnt, target)
}

func (l *Loops) mount(image string, devices []string) (*os.File, error) {
	mnt, err := l.mountBy(image, devices, l.shared)
	if errors.Is(err, unix.EBUSY) { // to a kernel that shares none
		mnt, err = l.mountBy(image, devices, attachLoop)
	}
	return mnt, err
}

// mountBy puts loop devices before image and devices. They go away with the last mount,
// or at once if there is none.
func (l *Loops) mountBy(image string, devices []string, loopOf func(string) (*os.File, error)) (*os.File, error) {
	loops := make([]*os.File, 0, 1+len(devices))
	defer func() {
		for _, f := range loops {
			f.Close() //nolint:errcheck // the mount holds what it needs
		}
	}()
	first, err := attachLoop(image)
	if err != nil {
		return nil, err
	}
	loops = append(loops, first)
	names := make([]string, 0, len(devices))
	for _, path := range devices {
		f, err := loopOf(path)
		if err != nil {
			return nil, err
		}
		loops, names = append(loops, f), append(names, f.Name())
	}
	return mountFiles(first.Name(), names)
}

// shared returns the device of a file, a new one if it has none.
func (l *Loops) shared(path string) (*os.File, error) {
	file, err := loopdev.FileAt(path)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if name, ok := l.known[file]; ok {
		if f := openLoopOf(name, file); f != nil {
			return f, nil
		}
		delete(l.known, file)
	}
	f, err := attachLoop(path)
	if err != nil {
		return nil, err
	}
	if l.known == nil {
		l.known = map[loopdev.File]string{}
	}
	l.known[file] = f.Name()
	return f, nil
}

// openLoopOf opens a device, which then stays what it is. It returns nil if that is not
// one of ours before file any more.
func openLoopOf(name string, file loopdev.File) *os.File {
	f, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	info, err := loopdev.Of(f, file)
	const ours = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	if err != nil || info == nil || info.Offset != 0 || info.Sizelimit != 0 || info.Flags&ours != ours {
		f.Close() //nolint:errcheck // only looked at
		return nil
	}
	return f
}
