package view

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Paths are checked before anything is unpacked. Should that fail one day, the
// kernel still refuses to leave the tree.
func TestBeneath(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "tree")
	for _, d := range []string{root + "/a/b", dir + "/outside/in"} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	require.NoError(t, os.Symlink("../outside", root+"/out"))
	require.NoError(t, os.Symlink(dir+"/outside", root+"/a/far"))
	require.NoError(t, os.Symlink("a", root+"/near"))
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	for _, p := range []string{
		"..", "../outside", "a/../../outside", dir + "/outside", "/", "out", "out/in", "a/far", "a/far/in", "near", "near/b",
	} {
		d, err := openDirBeneath(fd, p)
		if err == nil {
			unix.Close(d)
		}
		require.Error(t, err, p)
	}
	d, err := openDirBeneath(fd, "a/b")
	require.NoError(t, err)
	require.NoError(t, unix.Close(d))
}
