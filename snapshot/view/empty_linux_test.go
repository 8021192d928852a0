package view_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestEmpty: all that a job can leave in a directory goes, whether the trash is in the
// same mount or not; what its links lead to stays, and the directory itself.
func TestEmpty(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	for _, bind := range []bool{false, true} {
		top := t.TempDir()
		dir, trash, out := filepath.Join(top, "slot"), filepath.Join(top, "trash"), filepath.Join(top, "out")
		for _, d := range []string{dir, trash, out} {
			require.NoError(t, os.Mkdir(d, 0o755))
		}
		if bind {
			require.NoError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
			t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
		}
		require.NoError(t, os.WriteFile(filepath.Join(out, "stays"), nil, 0o644))
		require.NoError(t, os.Symlink(out, filepath.Join(dir, "link")))
		deep := filepath.Join(dir, strings.Repeat("d/", 200))
		require.NoError(t, os.MkdirAll(deep, 0o755))
		require.NoError(t, os.Symlink(out, filepath.Join(deep, "link")))
		require.NoError(t, os.WriteFile(filepath.Join(deep, "f"), nil, 0o644))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "no", "entry"), 0o755))
		require.NoError(t, os.Chmod(filepath.Join(dir, "no"), 0))
		require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "\xff\n"), nil, 0o644))
		before, err := os.Stat(dir)
		require.NoError(t, err)

		mnt := filepath.Join(dir, "mnt")
		require.NoError(t, os.Mkdir(mnt, 0o755))
		require.NoError(t, unix.Mount("tmpfs", mnt, "tmpfs", 0, ""))
		f, err := os.Create(filepath.Join(mnt, "open"))
		require.NoError(t, err)
		o := view.Options{SealWait: 1}
		require.ErrorIs(t, view.Empty(t.Context(), dir, trash, o), snapshot.ErrBusy)
		require.FileExists(t, filepath.Join(deep, "f"), "all or nothing")
		require.NoError(t, f.Close())

		require.NoError(t, view.Empty(t.Context(), dir, trash, o))
		require.NoError(t, view.Empty(t.Context(), dir, trash, o))
		for _, d := range []string{dir, trash} {
			left, err := os.ReadDir(d)
			require.NoError(t, err)
			require.Empty(t, left)
		}
		after, err := os.Stat(dir)
		require.NoError(t, err)
		require.True(t, os.SameFile(before, after))
		require.FileExists(t, filepath.Join(out, "stays"))
	}
	// The directory itself must not be a link.
	top := t.TempDir()
	require.NoError(t, os.Symlink(top, filepath.Join(top, "l")))
	require.Error(t, view.Empty(t.Context(), filepath.Join(top, "l"), top, view.Options{}))
}
