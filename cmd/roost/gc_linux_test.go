package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

// gc --all unmounts what a crash has left, also where the directory is called by a name
// that the list of mounts does not know, and deletes nothing while something that is
// not its own is mounted there.
func TestForgetAllEndsMounts(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	home := t.TempDir()
	t.Chdir(home)
	require.NoError(t, os.Symlink("real", "link"))
	for _, name := range []string{"real", "link", filepath.Join(home, "link")} {
		at := filepath.Join(home, "real", "host-a", "mnt", "a b")
		lay(t, "real", map[string]string{"lock": "", "holder": "", "host-a/store.db": "", "host-a/mnt/a b/x": "", "other/y": ""})
		mount := func(dir string) {
			require.NoError(t, unix.Mount("test", dir, "tmpfs", 0, ""))
			t.Cleanup(func() { unix.Unmount(dir, 0) }) //nolint:errcheck // only if the test failed
		}
		mount(at)
		require.NoError(t, os.WriteFile(filepath.Join(at, "precious"), nil, 0o600))
		other := filepath.Join(home, "real", "other")
		mount(other)
		require.NoError(t, os.WriteFile(filepath.Join(other, "precious"), nil, 0o600))

		code, _, errs := roost(t, "gc", "--all", "--state", name)
		require.Equal(t, exitUnreachable, code, errs)
		require.Contains(t, errs, other+" is still mounted")
		require.FileExists(t, filepath.Join(other, "precious"))
		require.FileExists(t, "real/host-a/store.db")
		require.NoError(t, unix.Unmount(other, 0))

		require.Contains(t, must(t, "gc", "--all", "--state", name), "deleted")
		require.NoDirExists(t, "real")
		require.Empty(t, mountsBelow(home))
	}
}
