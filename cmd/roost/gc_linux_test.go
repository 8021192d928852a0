package main

import (
	"fmt"
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

// A state directory on a full disk can be deleted, which is what one does then, also
// when something is mounted in it.
func TestGCAllOnAFullDisk(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	disk := testenv.Disk(t, testenv.Ext4, 96<<20)
	state := filepath.Join(disk, "state")
	require.NoError(t, os.Mkdir(state, 0o700))
	for _, name := range []string{"lock", "holder"} {
		require.NoError(t, os.WriteFile(filepath.Join(state, name), nil, 0o600))
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
	must(t, "snapshot", "create", dir, "--store", filepath.Join(state, "host-a"))
	must(t, "snapshot", "mount", "latest", filepath.Join(state, "left"), "--detach", "--store", filepath.Join(state, "host-a"))
	f, err := os.Create(filepath.Join(disk, "ballast"))
	require.NoError(t, err)
	for n := 1 << 20; n > 0; n /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
		require.NoError(t, f.Sync()) // which gives back what was only set aside
	}
	require.NoError(t, f.Close())
	for i := 0; err == nil || i == 0; i++ { // names need room of their own
		err = os.WriteFile(filepath.Join(disk, fmt.Sprint("name", i)), []byte("x"), 0o600)
	}
	require.Contains(t, must(t, "gc", "--all", "--state", state), "deleted")
	require.NoDirExists(t, state)
}

// Who asks for no layers at all is told, too, that this was not reached.
func TestGCTargetOfNothing(t *testing.T) {
	dir, st := t.TempDir(), filepath.Join(t.TempDir(), "store")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
	must(t, "snapshot", "create", dir, "--store", st)
	code, out, _ := roost(t, "gc", "--store-dir", st, "--target", "0")
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "NOT REACHED")
}
