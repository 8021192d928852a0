package erofs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// require what mounting needs, and that this kernel has a way to do it.
func needMount(t testing.TB) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	if _, err := Probe(t.Context(), t.TempDir()); err != nil {
		if os.Getenv("ROOST_TEST_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// mounted mounts for the time of the test.
func mounted(t testing.TB, m Method, image string, devices []string) string {
	target := filepath.Join(t.TempDir(), "mnt")
	require.NoError(t, os.Mkdir(target, 0o755))
	require.NoError(t, Mount(m, image, devices, target))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(target, unix.UMOUNT_NOFOLLOW)) })
	return target
}

func TestEveryKindOfEntry(t *testing.T) {
	needMount(t)
	for _, m := range []Method{FileBacked, Loop} {
		for _, block := range []uint8{9, 10, 12} {
			t.Run(fmt.Sprintf("%s-%d", m, block), func(t *testing.T) {
				w := newWorld(t, 3)
				w.block, w.scatter = block, true
				w.everything()
				image, devices, info := w.image("image", w.options())
				t.Logf("%d entries, %d inodes, %d bytes", len(w.entries), info.Inodes, info.Bytes)
				w.compare(mounted(t, m, image, devices), false)
			})
		}
	}
}

// All in one directory: it has thousands of blocks, and every name is found.
func TestLargeDirectory(t *testing.T) {
	needMount(t)
	w := newWorld(t, 0)
	r := testRand(3)
	var names []string
	seen := map[string]bool{}
	for len(names) < 100_000 {
		name := fmt.Sprintf("%x", r.Uint64()>>(r.Uint32()%60))
		if r.Uint32()%1000 == 0 {
			name += string(bytesOf(r, 200))
		}
		if !seen[name] && checkName(name) == nil && !strings.Contains(name, "/") {
			seen[name] = true
			names = append(names, name)
			w.add(with(name, snapshot.TypeFifo, nil))
		}
	}
	image, devices, info := w.image("image", w.options())
	t.Logf("image of %d bytes", info.Bytes)
	target := mounted(t, FileBacked, image, devices)
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.Len(t, readDir(t, fd), len(names))
	lookups(t, target, names, 20_000)
}

// Lookups go by two binary searches: every name around "." and ".." is found, and
// none that is not there.
func TestOddNamesAreFound(t *testing.T) {
	needMount(t)
	w := newWorld(t, 1)
	w.names()
	var names []string
	for _, e := range w.manifest().Entries {
		if n, ok := strings.CutPrefix(e.Path, "names/"); ok && !strings.Contains(n, "/") {
			names = append(names, n)
		}
	}
	image, devices, _ := w.image("image", w.options())
	lookups(t, mounted(t, FileBacked, image, devices)+"/names", names, len(names))
}

// Several mounts of one image, and readers of each, do not disturb one another.
func TestMountsAtTheSameTime(t *testing.T) {
	needMount(t)
	w := newWorld(t, 4)
	r := testRand(4)
	for i := range 400 {
		w.file(fmt.Sprintf("f%d", i), bytesOf(r, i*20))
	}
	image, devices, _ := w.image("image", w.options())
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			mnt, err := Detached([]Method{FileBacked, FileBacked, Loop}[i%3], image, devices)
			if err != nil {
				return err
			}
			defer mnt.Close()
			for path, runs := range w.data {
				b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", mnt.Fd(), path))
				if err != nil {
					return err
				}
				if len(runs) > 0 && !bytes.Equal(b, runs[0].data) {
					return fmt.Errorf("content of %s", path)
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}
