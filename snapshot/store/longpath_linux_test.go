package store

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// A path may have as many bytes as a system call takes, without the way to the store
// before it: such files are packed, verified and restored like any.
func TestLongPaths(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		one := b.job(func(dir string) {
			for _, n := range []int{3900, 4050, snapshot.MaxPathBytes} {
				writeDeep(t, dir, n, strings.Repeat("deep", n))
			}
			writeDeep(t, dir+"/large", 4080, strings.Repeat("large", 1<<19))
		})
		b.packed(one.ID)
		require.NoError(t, b.Verify(t.Context(), one.ID))
		b.requireTree(one.ID)
		two := b.job(func(dir string) { writeDeep(t, dir, 4051, "beside") }, one.ID)
		b.packed(two.ID)
		b.requireTree(two.ID)
		r, err := b.Scrub(t.Context(), ScrubOptions{})
		require.NoError(t, err)
		require.Empty(t, r.Damages)
	})
}

// writeDeep writes a file whose path below dir has n bytes.
func writeDeep(t *testing.T, dir string, n int, text string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		require.NoError(t, unix.Mkdir(dir, 0o755))
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	require.NoError(t, err)
	name := strings.Repeat("d", 200)
	for ; n > 255; n -= len(name) + 1 {
		if err := unix.Mkdirat(fd, name, 0o755); err != unix.EEXIST {
			require.NoError(t, err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	f, err := unix.Openat(fd, strings.Repeat("f", n), unix.O_CREAT|unix.O_WRONLY|unix.O_EXCL, 0o644)
	require.NoError(t, err)
	k, err := unix.Write(f, []byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), k)
	require.NoError(t, unix.Close(f))
	require.NoError(t, unix.Close(fd))
}
