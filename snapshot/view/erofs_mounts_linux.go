package view

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

const (
	// mostHot is how many images stay mounted when no view is being made of them.
	// Each keeps the pages that jobs have read.
	mostHot = 64
	// mostHotLoops is the same where every image and bundle takes a loop device.
	mostHotLoops = 8
	// mostData is how many data directories an image may lead to. A mount has them,
	// and a few directories more.
	mostData = maxStack - 40
	// mostLoops is how many bundles an image may lead to where each is a loop device: the
	// kernel has no bound that is near, but each is a device for all of the machine to
	// see. Most images lead to a few.
	mostLoops = 128
)

// images are the mounts of image files, each shared by all that is made of it, and by
// all names of the file.
//
// They stand below mnt/ for as long as a mount is being made of them and while
// they are hot. An overlay takes a private clone, so one that is idle can be
// unmounted at any time, whoever uses views on it.
type images struct {
	layout
	o      Options
	method erofs.Method
	cache  *imageCache
	loops  erofs.Loops

	// Tests set these before the first use.
	maxHot, maxData, maxBundles int
	always                      bool // every merge that comes with its tree is an image

	// mu guards all below. It is not held across I/O.
	mu    sync.Mutex
	hot   map[string]*imageMount // by the image's path relative to the root
	live  int                    // mounts in hot
	count int                    // of mounts made, so that no name is used twice
	clock int
}

// imageMount is one image, mounted or on its way. All but ready is guarded by
// images.mu until ready is closed.
type imageMount struct {
	ready chan struct{} // closed when at or err is there
	at    string
	err   error
	file  fileID // that was mounted; zero if it was another one before or after
	names int    // in hot
	uses  int
	last  int  // clock of the last use
	gone  bool // no longer in hot: the last user unmounts
}

// fileID tells files apart, as long as they exist or are mounted.
type fileID struct{ dev, ino uint64 }

func fileOf(path string) fileID {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return fileID{}
	}
	return fileID{st.Dev, st.Ino}
}

func newImages(l layout, o Options, m erofs.Method) *images {
	x := &images{
		layout: l, o: o, method: m, cache: newImageCache(l, o),
		maxHot: mostHot, maxData: mostData, maxBundles: math.MaxInt, hot: map[string]*imageMount{},
	}
	if m == erofs.Loop {
		x.maxHot, x.maxBundles = mostHotLoops, mostLoops
	}
	return x
}

// use returns where the image rel is mounted, mounting it if it is not. It stays
// there until done is called.
func (m *images) use(ctx context.Context, rel string) (at string, done func(), err error) {
	file := fileOf(m.abs(rel))
	m.mu.Lock()
	x, mine := m.enterLocked(rel, file)
	x.uses++
	m.clock++
	x.last = m.clock
	m.mu.Unlock()
	done = func() { m.release(rel, x) }
	if mine {
		x.err = m.mount(rel, x.at)
		if x.err == nil && fileOf(m.abs(rel)) == file {
			x.file = file // a name never gets a former file back
		}
		close(x.ready)
	}
	select {
	case <-x.ready:
		err = x.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		done()
		return "", nil, fmt.Errorf("image %s: %w", rel, err)
	}
	return x.at, done, nil
}

// enterLocked returns the mount of rel, which is file: one that is hot, that of another
// name of it, or a new one, which is the caller's to make.
func (m *images) enterLocked(rel string, file fileID) (x *imageMount, mine bool) {
	if x, ok := m.hot[rel]; ok {
		return x, false
	}
	for _, o := range m.hot {
		select {
		case <-o.ready:
			if o.err == nil && o.file == file && file != (fileID{}) {
				x = o
			}
		default:
		}
	}
	if mine = x == nil; mine {
		m.count++
		m.live++
		x = &imageMount{ready: make(chan struct{}), at: filepath.Join(m.root, mntDir, fmt.Sprintf("%s.%d", path.Base(rel), m.count))}
	}
	x.names++
	m.hot[rel] = x
	return x, mine
}

// leaveLocked takes rel out of hot, and reports whether its mount has no name there
// any more.
func (m *images) leaveLocked(rel string) bool {
	x := m.hot[rel]
	delete(m.hot, rel)
	x.names--
	if x.names == 0 {
		m.live--
	}
	return x.names == 0
}

func (m *images) mount(rel, at string) error {
	image := m.abs(rel)
	if _, err := checkImage(image); err != nil {
		return err
	}
	devices, err := m.bundles(image)
	if err != nil {
		return err
	}
	if err := checkBundles(image, devices); err != nil {
		return err
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	if m.method == erofs.Loop {
		err = m.loops.Mount(image, devices, at)
	} else {
		err = erofs.Mount(m.method, image, devices, at)
	}
	if err == nil {
		fail.Point("view.image.mounted")
		if err = private(at); err == nil {
			return nil
		}
	}
	os.Remove(at) //nolint:errcheck // the first error is the one to tell
	return err
}

// checkBundles tells of a damaged bundle or image as of other damage, by its path.
func checkBundles(image string, devices []string) error {
	err := erofs.CheckDevices(image, devices)
	var bad *erofs.DeviceError
	if errors.As(err, &bad) && (errors.Is(err, erofs.ErrDevices) || errors.Is(err, os.ErrNotExist)) {
		return &snapshot.CorruptError{What: "bundle", Name: bad.Path, Why: bad.Err.Error()}
	}
	if errors.Is(err, erofs.ErrNotImage) {
		return &snapshot.CorruptError{What: "image", Name: image, Why: err.Error()}
	}
	return err
}

// bundles lists the bundles of an image as its own table has them: that is right
// also when the image was made again after a layer on it was written down.
func (m *images) bundles(image string) ([]string, error) {
	f, err := os.Open(image)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &snapshot.CorruptError{What: "image", Name: image, Why: "the file is gone"}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	img, err := erofs.Open(f)
	if err != nil {
		return nil, &snapshot.CorruptError{What: "image", Name: image, Why: err.Error()}
	}
	out := make([]string, len(img.Devices))
	for i, d := range img.Devices {
		at, err := bundleAt(d.Tag)
		if err != nil {
			return nil, &snapshot.CorruptError{What: "image", Name: image, Why: err.Error()}
		}
		out[i] = m.abs(at)
	}
	return out, nil
}
