package erofs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// unchecked mounts without looking at the devices: what the checks are there for.
func unchecked(t *testing.T, image string, devices []string) string {
	mnt, err := mountFiles(image, devices)
	require.NoError(t, err)
	t.Cleanup(func() { mnt.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", mnt.Fd())
}

// Options of mount(2) end at one page, some 40 devices of usual names.
func TestAThousandDevices(t *testing.T) {
	needMount(t)
	w := newWorld(t, 1000)
	r := testRand(2)
	for i := range 2000 {
		w.file(fmt.Sprintf("f%04d", i), bytesOf(r, 600))
	}
	image, devices, info := w.image("image", w.options())
	require.Len(t, info.Devices, 1000)
	options := "ro"
	for _, d := range devices {
		options += ",device=" + d
	}
	target := filepath.Join(t.TempDir(), "mnt")
	require.NoError(t, os.Mkdir(target, 0o755))
	require.Error(t, unix.Mount(image, target, "erofs", unix.MS_RDONLY, options), "mount(2) takes them now: is the mount API still needed?")
	w.compare(mounted(t, FileBacked, image, devices), false)
}

// What the kernel does with a short bundle, and that we do not let it.
func TestShortBundle(t *testing.T) {
	needMount(t)
	w := newWorld(t, 1)
	r := testRand(3)
	w.file("a-first", bytesOf(r, 4096))
	w.file("b-cut", bytesOf(r, 8192))
	w.file("c-beyond", bytesOf(r, 4096))
	image, devices, info := w.image("image", w.options())
	require.Equal(t, int64(16384), info.Devices[0].Bytes)
	require.NoError(t, os.Truncate(devices[0], 8192))

	err := Mount(FileBacked, image, devices, t.TempDir())
	require.ErrorIs(t, err, ErrDevices)
	require.Contains(t, err.Error(), "8192 bytes, 16384 are needed")

	root := unchecked(t, image, devices)
	_, err = os.ReadFile(root + "/a-first")
	require.NoError(t, err)
	for _, name := range []string{"b-cut", "c-beyond"} {
		_, err := os.ReadFile(root + "/" + name)
		require.ErrorIs(t, err, unix.EIO, name)
	}
	// Cut within what is read at once: this is not even always an error.
	require.NoError(t, os.Truncate(devices[0], 8192+100))
	require.ErrorIs(t, Mount(FileBacked, image, devices, t.TempDir()), ErrDevices)
}

// A sparse bundle has the size and gives zeros for what was not written.
func TestSparseBundle(t *testing.T) {
	needMount(t)
	w := newWorld(t, 1)
	data := bytesOf(testRand(4), 65536)
	w.file("a", data)
	w.file("b", data)
	image, devices, _ := w.image("image", w.options())
	f, err := os.OpenFile(devices[0], os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 65536, 65536))
	require.NoError(t, f.Close())

	err = Mount(FileBacked, image, devices, t.TempDir())
	require.ErrorIs(t, err, ErrDevices)
	require.Contains(t, err.Error(), "hole at 65536")

	root := unchecked(t, image, devices)
	b, err := os.ReadFile(root + "/b")
	require.NoError(t, err, "no error: this is why Mount looks for holes")
	require.Equal(t, make([]byte, 65536), b)

	// A bundle that grew beyond what the image needs may do so in any way.
	require.NoError(t, os.WriteFile(devices[0], w.bundles[0].Bytes(), 0o644))
	require.NoError(t, os.Truncate(devices[0], 1<<20))
	require.NoError(t, CheckDevices(image, devices))
}

func TestMountRefuses(t *testing.T) {
	needMount(t)
	w := newWorld(t, 2)
	w.file("a", []byte("x"))
	image, devices, _ := w.image("image", w.options())
	target := t.TempDir()
	refused := func(what, image string, devices []string, text string) {
		err := Mount(FileBacked, image, devices, target)
		require.Error(t, err, what)
		require.Contains(t, err.Error(), text, what)
	}
	refused("too few devices", image, devices[:1], "made for 2 devices")
	refused("too many devices", image, append(devices, devices[0]), "made for 2 devices")
	refused("missing bundle", image, []string{devices[0], "/nowhere"}, "no such file")
	refused("a directory", image, []string{devices[0], target}, "not a file")
	refused("no image", devices[0], nil, ErrNotImage.Error())
	b, err := os.ReadFile(image)
	require.NoError(t, err)
	cut := filepath.Join(w.dir, "cut")
	require.NoError(t, os.WriteFile(cut, b[:len(b)-512], 0o644))
	refused("cut short", cut, devices, ErrNotImage.Error())
	for _, at := range []int{superOffset, superOffset + 4, superOffset + 14, superOffset + 50, superOffset + superSize} {
		bad := append([]byte{}, b...)
		bad[at] ^= 1
		require.NoError(t, os.WriteFile(cut, bad, 0o644))
		refused(fmt.Sprintf("bit at %d", at), cut, devices, ErrNotImage.Error())
	}
	require.NoError(t, Mount(FileBacked, image, devices, target))
	require.NoError(t, unix.Unmount(target, 0))
}

// The kernel itself verifies our checksum: a wrong one is refused by it too.
func TestKernelVerifiesTheChecksum(t *testing.T) {
	needMount(t)
	w := newWorld(t, 0)
	image, _, _ := w.image("image", w.options())
	b, err := os.ReadFile(image)
	require.NoError(t, err)
	b[superOffset+60] ^= 1 // in the UUID
	require.NoError(t, os.WriteFile(image, b, 0o644))
	_, err = mountFiles(image, nil)
	require.ErrorIs(t, err, unix.EBADMSG)
}

// fsUUID asks the kernel for the UUID of the file system at path.
func fsUUID(t *testing.T, path string) (u [16]byte) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var arg struct {
		n    uint8
		uuid [16]byte
	}
	const fsIocGetFSUUID = 0x80111500 // _IOR(0x15, 0, 17 bytes)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocGetFSUUID, uintptr(unsafe.Pointer(&arg)))
	if errno == 0 {
		return arg.uuid
	}
	t.Skipf("this kernel does not tell UUIDs: %v", errno)
	return u
}

func TestUUIDIsUniqueToTheTree(t *testing.T) {
	needMount(t)
	seen := map[[16]byte]bool{}
	for i := range 3 {
		w := newWorld(t, 0)
		o := w.options()
		o.Manifest[0] = byte(i)
		image, devices, info := w.image("image", o)
		require.Equal(t, UUID(o.Manifest), info.UUID)
		require.Equal(t, info.UUID, fsUUID(t, mounted(t, FileBacked, image, devices)))
		require.False(t, seen[info.UUID], "used twice")
		seen[info.UUID] = true
		require.Equal(t, byte(0x80), info.UUID[6]&0xf0)
		require.Equal(t, byte(0x80), info.UUID[8]&0xc0)
	}
}

// Bundles may be unlinked, and may grow, while images on them are mounted.
func TestBundleUnlinkedAndGrown(t *testing.T) {
	needMount(t)
	w := newWorld(t, 1)
	r := testRand(5)
	w.file("a", bytesOf(r, 100_000))
	image, devices, _ := w.image("image", w.options())
	old := mounted(t, FileBacked, image, devices)

	grown := newWorld(t, 0)
	grown.t, grown.dir, grown.bundles = t, w.dir, w.bundles
	grown.places["a"], grown.data["a"] = w.places["a"], w.data["a"]
	grown.entries = append(grown.entries, w.entries[1:]...)
	grown.file("b", bytesOf(r, 100_000))
	grown.settle()
	f, err := os.OpenFile(devices[0], os.O_WRONLY, 0) // append as a bundle's writer does
	require.NoError(t, err)
	_, err = f.WriteAt(grown.bundles[0].Bytes()[roundUp(100_000, 512):], roundUp(100_000, 512))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	next, err := os.Create(filepath.Join(w.dir, "next"))
	require.NoError(t, err)
	_, err = Write(t.Context(), next, grown.options(), grown.tree())
	require.NoError(t, err)
	require.NoError(t, next.Close())
	now := mounted(t, FileBacked, next.Name(), devices)
	require.NoError(t, os.Remove(devices[0]))
	require.NoError(t, os.Remove(image))
	w.compare(old, false)
	grown.compare(now, false)
}

// Known limits and abilities of the kernel, so that a change of one is noticed.
func TestKernelsHabits(t *testing.T) {
	needMount(t)
	w := newWorld(t, 1)
	r := testRand(6)
	w.file("small", bytesOf(r, 700))
	w.sparse("sparse", 1<<20, run{0, bytesOf(r, 4096)}, run{1 << 19, bytesOf(r, 4096)})
	image, devices, _ := w.image("image", w.options())
	root := mounted(t, FileBacked, image, devices)

	t.Run("O_DIRECT", func(t *testing.T) {
		fd, err := unix.Open(root+"/small", unix.O_RDONLY|unix.O_DIRECT, 0)
		if err == nil {
			unix.Close(fd)
			t.Log("works on this kernel")
			return
		}
		require.ErrorIs(t, err, unix.EINVAL) // as the docs say
	})
	t.Run("SEEK_HOLE", func(t *testing.T) {
		f, err := os.Open(root + "/sparse")
		require.NoError(t, err)
		defer f.Close()
		hole, err := f.Seek(0, unix.SEEK_HOLE) // copy-up keeps holes by this
		require.NoError(t, err)
		require.Equal(t, int64(4096), hole)
		data, err := f.Seek(hole, unix.SEEK_DATA)
		require.NoError(t, err)
		require.Equal(t, int64(1<<19), data)
	})
	t.Run("read-only", func(t *testing.T) {
		require.ErrorIs(t, os.WriteFile(root+"/x", nil, 0o644), unix.EROFS)
		var st unix.Statfs_t
		require.NoError(t, unix.Statfs(root, &st))
		require.NotZero(t, st.Flags&unix.ST_NOSUID)
		require.NotZero(t, st.Flags&unix.ST_NODEV)
		require.NotZero(t, st.Flags&unix.ST_RDONLY)
	})
	t.Run("prefetch", func(t *testing.T) { // hung before Linux 6.15 with many folios
		f, err := os.Open(root + "/sparse")
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, unix.Fadvise(int(f.Fd()), 0, 1<<20, unix.FADV_WILLNEED))
		_, err = io.ReadAll(f)
		require.NoError(t, err)
	})
}
