package erofs

import (
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Whatever tree is drawn, the kernel shows it as the manifest says, bare and below
// an overlay, and the child's image with its base's numbers.
func TestKernelShowsAnyTree(t *testing.T) {
	needMount(t)
	target := t.TempDir()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		c := check{rt, dir}
		base := genWorld(rt, c, 2)
		image, devices, _ := base.image("image", base.options())
		mnt, err := Detached(FileBacked, image, devices)
		require.NoError(c, err)
		defer mnt.Close()
		base.compareAt(int(mnt.Fd()), false)

		child := evolve(rt, c, base)
		o := child.options()
		f, err := os.Open(image)
		require.NoError(c, err)
		defer f.Close()
		o.Base = f
		childImage, childDevices, _ := child.image("child", o)
		require.NoError(c, Mount(FileBacked, childImage, childDevices, target))
		defer unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		child.compare(target, false)
	})
}

// What the writer takes of odd manifests, the kernel takes too: it mounts, and
// every name can be listed and looked at.
func TestKernelTakesOddManifests(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	image := dir + "/image"
	rapid.Check(t, func(rt *rapid.T) {
		m := writeOdd(rt)
		if m == nil {
			return
		}
		rc := check{rt, dir}
		require.NoError(rc, os.WriteFile(image, m.b, 0o600))
		devices := []string{dir + "/a", dir + "/b"}
		for _, d := range devices {
			require.NoError(rc, os.WriteFile(d, nil, 0o600))
		}
		mnt, err := mountFiles(image, devices) // content is made up
		require.NoError(rc, err)
		defer mnt.Close()
		all := map[string]seen{}
		look(rc, int(mnt.Fd()), "", all, nil)
		require.Len(rc, all, len(numbers(rc, m))-1)
	})
}
