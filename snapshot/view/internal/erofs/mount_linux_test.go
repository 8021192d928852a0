package erofs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
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
