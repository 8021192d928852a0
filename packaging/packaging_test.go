package packaging

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
)

// build makes a package of a stand-in for the program.
func build(t *testing.T, kind string) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "roost")
	require.NoError(t, os.WriteFile(binary, []byte("#!/bin/sh\n"), 0o755))
	cmd := exec.Command("go", "tool", "-modfile=tools/nfpm.mod", "nfpm", "package", "-f", "packaging/nfpm.yaml", "-p", kind, "-t", dir)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOARCH=amd64", "PKG_VERSION=1.2.3", "ROOST_BINARY="+binary)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	found, err := filepath.Glob(filepath.Join(dir, "*."+kind))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// What is in the Debian package, and that installing it starts nothing.
func TestDebianPackage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a package builder")
	}
	testenv.Require(t, testenv.Go, "dpkg-deb")
	deb := build(t, "deb")
	raw, err := exec.Command("dpkg-deb", "--fsys-tarfile", deb).Output()
	require.NoError(t, err)
	files := map[string]*tar.Header{}
	texts := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		name := "/" + strings.Trim(strings.TrimPrefix(h.Name, "./"), "/")
		files[name], texts[name] = h, string(b)
		require.Zero(t, h.Uid, name)
		require.Zero(t, h.Mode&0o022, "%s can be written by others", name)
	}
	for name, mode := range map[string]int64{
		"/usr/bin/roost": 0o755, "/etc/default/roost": 0o644, "/etc/roost": 0o755, "/var/lib/roost": 0o755,
		"/usr/share/doc/roost/config.example.toml": 0o644, "/usr/share/doc/roost/gitlab.md": 0o644, "/usr/share/doc/roost/copyright": 0o644,
	} {
		require.Contains(t, files, name)
		require.Equal(t, mode, files[name].Mode&0o777, name)
	}
	require.Equal(t, AgentUnit, texts["/usr/lib/systemd/system/roost-agent.service"])
	require.Equal(t, CoordinatorUnit, texts["/usr/lib/systemd/system/roost-coordinator.service"])

	control := t.TempDir()
	require.NoError(t, exec.Command("dpkg-deb", "--control", deb, control).Run())
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(control, name))
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "/etc/default/roost\n", read("conffiles"))
	require.Contains(t, read("control"), "Version: 1.2.3\n")
	require.NotRegexp(t, `systemctl.*\b(enable|start|restart)\b`, read("postinst"))
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		out, err := exec.Command("sh", "-n", filepath.Join(control, script)).CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
	}
}

// The RPM is built from the same file.
func TestRPM(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a package builder")
	}
	testenv.Require(t, testenv.Go)
	b, err := os.ReadFile(build(t, "rpm"))
	require.NoError(t, err)
	require.Equal(t, []byte{0xed, 0xab, 0xee, 0xdb}, b[:4], "an RPM's lead")
	require.Contains(t, string(b), "/etc/default/")
}

// The units say what they must, and not what they must not.
func TestUnits(t *testing.T) {
	for _, bad := range []string{"PrivateTmp=yes", "ProtectSystem=yes", "PrivateMounts=yes", "MountFlags="} {
		require.NotContains(t, AgentUnit, bad, "the agent would mount where nobody sees it")
	}
	for _, u := range []string{AgentUnit, CoordinatorUnit} {
		require.Contains(t, u, "Type=notify\n")
		require.Contains(t, u, "ExecReload=/bin/kill -HUP $MAINPID\n")
	}
	require.Contains(t, RunnerUnit, "MountFlags=slave\n")
	require.Contains(t, RunnerUnit, "KillSignal=SIGQUIT\n")
	require.Contains(t, RunnerUnit, "After=network-online.target gitlab-runner-roost.target\n")
	require.NotRegexp(t, "After=.*roost-agent", RunnerUnit, "an agent that died would not start while a runner waits for its job")
	require.Contains(t, RunnersTarget, "After=roost-agent.service\n")
}
