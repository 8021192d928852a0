package view_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/snapshot/view/viewtest"
)

// asNobody runs the named test of this binary as a user without any right.
func asNobody(t *testing.T, name string) {
	testenv.Require(t, testenv.Root)
	dir, err := os.MkdirTemp("/tmp", "roost-nobody-") //nolint:usetesting // t.TempDir is closed to other users
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	bin := filepath.Join(dir, "test")
	require.NoError(t, os.WriteFile(bin, self, 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	tmp := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o755))
	require.NoError(t, os.Chown(tmp, 65534, 65534))
	cmd := exec.Command(bin, "-test.run", "^"+name+"$", "-test.count=1")
	cmd.Dir = tmp
	cmd.Env = []string{"TMPDIR=" + tmp, "HOME=" + tmp, "PATH=" + os.Getenv("PATH"), "ROOST_TEST_NOBODY=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "PASS")
}

// TestCopyNobody is the whole suite without root.
func TestCopyNobody(t *testing.T) {
	if os.Getenv("ROOST_TEST_NOBODY") == "" {
		asNobody(t, "TestCopyNobody")
		return
	}
	require.NotZero(t, os.Geteuid())
	viewtest.Run(t, openWith(view.NewCopy, view.Options{}))
}

// TestNoOverlayForNobody: the probe says why, and the best driver is the other.
func TestNoOverlayForNobody(t *testing.T) {
	if os.Getenv("ROOST_TEST_NOBODY") == "" {
		asNobody(t, "TestNoOverlayForNobody")
		return
	}
	_, err := view.NewOverlay(t.TempDir(), view.Options{})
	require.ErrorIs(t, err, view.ErrUnavailable)
	for _, p := range view.Probe(t.TempDir()) {
		switch p.Name {
		case view.NameOverlay:
			require.False(t, p.OK)
			require.NotEmpty(t, p.Why)
			require.NotEmpty(t, p.Fix)
		case view.NameCopy:
			require.True(t, p.OK)
		default: // depends on the machine
		}
	}
	d, err := view.Open("", t.TempDir(), view.Options{})
	require.NoError(t, err)
	require.Contains(t, []string{view.NameReflink, view.NameCopy}, d.Name())
}
