package main

import (
	"bufio"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/slots"
	"github.com/roost-ci/roost/internal/testenv"
)

// setup is what systemd does to a unit's mount namespace, in its order: a slave of the
// host's, the paths that are bound, and at last the propagation that the unit wants.
const setup = `set -e
mount --make-rslave /
mount --rbind "$1" "$2"
mount --make-r"$3" /
cd "$2"
echo ready
while read -r name; do
  if [ -e "$2/$name/file" ]; then cat "$2/$name/file"; else echo nothing; fi
done
`

// unitSpace is a mount namespace as the unit of a slot has it.
type unitSpace struct {
	t   *testing.T
	in  *os.File
	out *bufio.Scanner
}

func newUnitSpace(t *testing.T, from, to, flag string) *unitSpace {
	cmd := osexec.Command("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", setup, "sh", from, to, flag)
	cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r.Close()
	t.Cleanup(func() {
		w.Close()
		require.NoError(t, cmd.Wait())
	})
	s := &unitSpace{t: t, in: w, out: bufio.NewScanner(out)}
	require.True(t, s.out.Scan(), "the namespace was not made")
	return s
}

// see is what the unit finds of a workspace.
func (s *unitSpace) see(name string) string {
	s.t.Helper()
	_, err := fmt.Fprintln(s.in, name)
	require.NoError(s.t, err)
	require.True(s.t, s.out.Scan())
	return s.out.Text()
}

// A runner's process that was started before sees, at one path, the workspaces that the
// agent mounts on the host afterwards, only those of its own slot, and not any more once
// they are unmounted.
func TestUnitSeesLaterWorkspaces(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, "unshare")
	text, err := os.ReadFile("../../internal/runnerconf/testdata/shell.in.toml")
	require.NoError(t, err)
	h := newRunnerHost(t, string(text), true)
	h.must("install", "gitlab", "--config", h.config, "--join", testJoin, "--no-start")
	unit, err := os.ReadFile(filepath.Join(h.dir, "units", "gitlab-runner-roost@.service"))
	require.NoError(t, err)
	bind := regexp.MustCompile(`(?m)^BindPaths=(.*):(.*)$`).FindSubmatch(unit)
	flag := regexp.MustCompile(`(?m)^MountFlags=(.*)$`).FindSubmatch(unit)
	require.NotNil(t, bind)
	require.NotNil(t, flag)
	require.Equal(t, "/builds", string(bind[2]))
	dir := strings.TrimSuffix(string(bind[1]), "/%i")
	require.NoError(t, slots.Prepare(dir, 2))
	t.Cleanup(func() { unmountAll(dir) })
	builds := t.TempDir() // for /builds, which the machine may not have

	one := newUnitSpace(t, filepath.Join(dir, "1"), builds, string(flag[1]))
	two := newUnitSpace(t, filepath.Join(dir, "2"), builds, string(flag[1]))
	private := newUnitSpace(t, filepath.Join(dir, "1"), builds, "private")
	const name = "0123456789abcdefghijklmnop"
	require.Equal(t, "nothing", one.see(name))
	view := filepath.Join(dir, "1", name)
	require.NoError(t, os.Mkdir(view, 0o755))
	require.NoError(t, unix.Mount("tmpfs", view, "tmpfs", 0, ""))
	require.NoError(t, os.WriteFile(filepath.Join(view, "file"), []byte("workspace of slot 1\n"), 0o644))
	require.Equal(t, "workspace of slot 1", one.see(name))
	require.Equal(t, "nothing", two.see(name))
	require.Equal(t, "nothing", private.see(name), "so that the flag is what does it")

	// The agent's next process prepares again: those that run must not lose sight.
	require.NoError(t, slots.Prepare(dir, 2))
	unmountSoon(t, view)
	require.Equal(t, "nothing", one.see(name))
	require.NoError(t, unix.Mount("tmpfs", view, "tmpfs", 0, ""))
	require.NoError(t, os.WriteFile(filepath.Join(view, "file"), []byte("the next one\n"), 0o644))
	require.Equal(t, "the next one", one.see(name))
	unmountSoon(t, view)
}

// unmountSoon unmounts what a process in a namespace may be about to close.
func unmountSoon(t *testing.T, path string) {
	t.Helper()
	require.Eventually(t, func() bool { return unix.Unmount(path, 0) == nil }, time.Minute, 5*time.Millisecond)
}

// unmountAll unmounts what the test mounted.
func unmountAll(dir string) {
	for unix.Unmount(dir, unix.MNT_DETACH) == nil { //nolint:revive // until there is none
	}
}
