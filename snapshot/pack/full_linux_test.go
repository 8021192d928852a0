package pack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// A full disk ends the run with ENOSPC and leaves no temporary file; with more room
// the same call works.
func TestFullDisk(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	w := newWorld(t)
	changes := []snapshot.Change{w.file("a", noise(9<<20, 1)), w.file("b", noise(9<<20, 2))}
	disk := filepath.Join(w.dir, "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=10m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, 0)) })
	for _, d := range []string{"packs", "tmp"} {
		require.NoError(t, os.Mkdir(filepath.Join(disk, d), 0o700))
	}
	o := w.options()
	o.Dir, o.Tmp = filepath.Join(disk, "packs"), filepath.Join(disk, "tmp")
	_, _, err := Encode(t.Context(), o, changes)
	require.ErrorIs(t, err, unix.ENOSPC)
	left, err := os.ReadDir(o.Tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Nil(t, changes[0].Entry.Chunks)

	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=40m"))
	ix, _, err := Encode(t.Context(), o, changes)
	require.NoError(t, err)
	for _, p := range ix.Packs {
		require.NoError(t, packIs(filepath.Join(o.Dir, p.Digest.String()), p))
	}
}
