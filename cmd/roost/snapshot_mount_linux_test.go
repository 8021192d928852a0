package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/testenv"
)

// umount ends what mount --detach left, however it is shown, and no other mount.
func TestSnapshotUmountEndsOursAlone(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	home := t.TempDir()
	dir := filepath.Join(home, "d")
	for _, large := range []string{"", strings.Repeat("l", 2<<20)} {
		lay(t, dir, map[string]string{"f": large})
		for _, driver := range configs.Drivers {
			st, mnt := filepath.Join(t.TempDir(), "store"), filepath.Join(home, "mnt")
			must(t, "snapshot", "create", dir, "--store", st)
			code, _, errs := roost(t, "snapshot", "mount", "latest", mnt, "--detach", "--store", st, "--driver", driver)
			if driver == "reflink" && code == exitFailed && strings.Contains(errs, "does not clone files") {
				continue
			}
			require.Zero(t, code, "%s: %s", driver, errs)
			must(t, "snapshot", "umount", mnt)
			require.NoDirExists(t, mnt, driver)
		}
	}
	other := filepath.Join(home, "other")
	for name, flags := range map[string]uintptr{"read-only": unix.MS_RDONLY, "writable": 0} {
		require.NoError(t, os.Mkdir(other, 0o700))
		require.NoError(t, unix.Mount("tmpfs", other, "tmpfs", flags, ""))
		code, _, errs := roost(t, "snapshot", "umount", other)
		require.NoError(t, unix.Unmount(other, 0), "%s: it is not mounted any more", name)
		require.Equal(t, exitUsage, code, errs)
		require.Contains(t, errs, "no mount of a snapshot")
		require.NoError(t, os.Remove(other))
	}
}

// Who ends a mount that somebody is in is told that it stays.
func TestSnapshotMountThatIsInUse(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	home := t.TempDir()
	dir, st, mnt := filepath.Join(home, "d"), filepath.Join(home, "store"), filepath.Join(home, "mnt")
	lay(t, dir, map[string]string{"f": "text"})
	must(t, "snapshot", "create", dir, "--store", st)
	cmd := exec.CommandContext(t.Context(), failBinary(t), "snapshot", "mount", "latest", mnt, "--store", st)
	var e bytes.Buffer
	cmd.Stderr = &e
	require.NoError(t, cmd.Start())
	var f *os.File
	require.Eventually(t, func() bool {
		var err error
		f, err = os.Open(filepath.Join(mnt, "f"))
		return err == nil
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	err := cmd.Wait()
	require.NoError(t, f.Close())
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, exitFailed, exit.ExitCode(), e.String())
	require.Contains(t, e.String(), mnt)
	require.Contains(t, e.String(), "umount")
	must(t, "snapshot", "umount", mnt)
}
