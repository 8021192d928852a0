package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
)

var (
	buildOnce sync.Once
	buildErr  error
	failing   string // a binary that dies at named steps
)

// failBinary builds this command with its fail points.
func failBinary(t *testing.T) string {
	t.Helper()
	testenv.Require(t, testenv.Go)
	buildOnce.Do(func() {
		dir, err := os.MkdirTemp("", "roost-cmd-") //nolint:usetesting // it outlives the test that needs it first
		if err != nil {
			buildErr = err
			return
		}
		failing = filepath.Join(dir, "roost")
		cmd := exec.Command("go", "build", "-tags", "failpoints", "-o", failing, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("%w: %s", err, out)
		}
	})
	require.NoError(t, buildErr)
	return failing
}

func TestMain(m *testing.M) {
	code := m.Run()
	if failing != "" {
		os.RemoveAll(filepath.Dir(failing))
	}
	os.Exit(code)
}

// process runs the binary, to die at point if that is not "".
func process(t *testing.T, point string, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), failBinary(t), args...)
	cmd.Env = append(os.Environ(), fail.Env+"="+point)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("%w: %s", err, e.String())
	}
	return strings.TrimSpace(o.String()), err
}

func killed(err error) bool {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		return false
	}
	ws, ok := e.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// sameTree compares everything.
func sameTree(t *testing.T, a, b string) {
	t.Helper()
	diff, err := treecheck.Compare(a, b)
	require.NoError(t, err)
	require.Empty(t, diff)
}

// A command that is killed at any of its steps loses nothing that was there, and
// the same command does it afterwards; nothing is left over.
func TestSnapshotSurvivesKills(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	home := t.TempDir()
	dir, st, depot, there := filepath.Join(home, "d"), filepath.Join(home, "store"), filepath.Join(home, "depot"), filepath.Join(home, "there")
	lay(t, dir, map[string]string{"a": "a", "b/c": strings.Repeat("c", 2<<20), "b/d": "d"})
	require.NoError(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b/hard")))
	one := must(t, "snapshot", "create", dir, "--store", st)
	key := filepath.Join(home, "key")
	must(t, "snapshot", "key", key, "--store", st)
	must(t, "snapshot", "push", one, depot, "--store", st)

	n := 0
	die := func(t *testing.T, point string, args ...string) {
		t.Helper()
		_, err := process(t, point, args...)
		require.True(t, killed(err), "%s: %v", point, err)
		n++
	}
	for _, point := range []string{
		"pack.committed", "pack.verified", "pack.encoded", "store.create.encoded", "durable.synced", "durable.renamed",
		"store.create.written", "store.create.row",
	} {
		t.Run(point, func(t *testing.T) {
			lay(t, dir, map[string]string{"new": point + strings.Repeat("n", 1<<20)})
			die(t, point, "snapshot", "create", dir, "--store", st, "--base", one)
			must(t, "snapshot", "verify", "--store", st)
			two := must(t, "snapshot", "create", dir, "--store", st, "--base", one)
			to := filepath.Join(t.TempDir(), "back")
			must(t, "snapshot", "restore", two, to, "--store", st)
			sameTree(t, dir, to)
		})
	}
	last := must(t, "snapshot", "create", dir, "--store", st, "--base", one)
	for _, point := range []string{"store.restore.made", "store.restore.filled", "store.restore.synced", "durable.moved"} {
		t.Run(point, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "back")
			die(t, point, "snapshot", "restore", last, to, "--store", st)
			if point != "durable.moved" {
				require.NoDirExists(t, to, "it never shows half of it")
				must(t, "snapshot", "restore", last, to, "--store", st)
			}
			sameTree(t, dir, to)
			left, err := filepath.Glob(to + ".*")
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
	for _, point := range []string{"blob.received", "blob.committed", "blob.ref.committed"} {
		t.Run(point, func(t *testing.T) {
			lay(t, dir, map[string]string{"new": point})
			last = must(t, "snapshot", "create", dir, "--store", st, "--base", last)
			die(t, point, "snapshot", "push", last, depot, "--store", st)
			must(t, "snapshot", "push", last, depot, "--store", st)
		})
	}
	for _, point := range []string{"store.pull.packs", "store.pull.written", "store.pull.row"} {
		t.Run(point, func(t *testing.T) {
			die(t, point, "snapshot", "pull", last, depot, "--store", there, "--key-file", key)
			must(t, "snapshot", "pull", last, depot, "--store", there, "--key-file", key)
			must(t, "snapshot", "verify", "--store", there)
			to := filepath.Join(t.TempDir(), "back")
			must(t, "snapshot", "restore", last, to, "--store", there)
			sameTree(t, dir, to)
			empty(t, there)
		})
	}
	for _, point := range []string{"store.materialise.unpacked", "store.materialise.row"} {
		t.Run(point, func(t *testing.T) {
			mnt := filepath.Join(t.TempDir(), "mnt")
			last = must(t, "snapshot", "create", dir, "--store", st, "--base", last)
			die(t, point, "snapshot", "mount", last, mnt, "--detach", "--store", st)
			must(t, "snapshot", "mount", last, mnt, "--detach", "--store", st)
			sameTree(t, dir, mnt)
			must(t, "snapshot", "umount", mnt)
			must(t, "snapshot", "verify", "--store", st)
		})
	}
	for _, point := range []string{"store.detach.written", "store.detach.row"} {
		t.Run(point, func(t *testing.T) {
			was := last
			lay(t, dir, map[string]string{"new": point})
			last = must(t, "snapshot", "create", dir, "--store", st, "--base", was)
			die(t, point, "snapshot", "rm", was, "--store", st)
			must(t, "snapshot", "verify", "--store", st)
			must(t, "snapshot", "rm", was, "--store", st)
			must(t, "snapshot", "verify", "--store", st)
			to := filepath.Join(t.TempDir(), "back")
			must(t, "snapshot", "restore", last, to, "--store", st)
			sameTree(t, dir, to)
		})
	}
	require.Equal(t, 22, n)
	empty(t, st)
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(b), home)
}

// empty deletes all snapshots of a store and checks that nothing is left of them.
func empty(t *testing.T, st string) {
	t.Helper()
	for {
		code, _, errs := roost(t, "snapshot", "rm", "latest", "--store", st)
		if code != 0 {
			require.Contains(t, errs, "no snapshot yet")
			break
		}
	}
	for _, d := range []string{"packs", "indexes", "manifests", "tmp", "views", "trash"} {
		left, err := os.ReadDir(filepath.Join(st, d))
		require.NoError(t, err)
		require.Empty(t, left, d)
	}
}

// Ctrl-C ends a command with 130, and nothing of it is left.
func TestSnapshotInterrupted(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	home := t.TempDir()
	dir, st := filepath.Join(home, "d"), filepath.Join(home, "store")
	require.NoError(t, os.Mkdir(dir, 0o755))
	f, err := os.Create(filepath.Join(dir, "big"))
	require.NoError(t, err)
	block := make([]byte, 8<<20)
	for i := range block {
		block[i] = byte(i * i >> 7)
	}
	for i := range 48 {
		block[0], block[len(block)/2] = byte(i), byte(i)
		_, err := f.Write(block)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	interrupt := func(busy func() bool, args ...string) {
		cmd := exec.CommandContext(t.Context(), failBinary(t), args...)
		var e bytes.Buffer
		cmd.Stderr = &e
		require.NoError(t, cmd.Start())
		require.Eventually(t, busy, time.Minute, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		err := cmd.Wait()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, e.String())
		require.Equal(t, exitInterrupted, exit.ExitCode(), e.String())
		require.Contains(t, e.String(), "interrupted")
	}
	some := func(pattern string) func() bool {
		return func() bool {
			found, _ := filepath.Glob(pattern)
			return len(found) > 0
		}
	}
	interrupt(some(filepath.Join(st, "tmp", "*")), "snapshot", "create", dir, "--store", st)
	require.Empty(t, must(t, "snapshot", "ls", "--json", "--store", st))
	for _, d := range []string{"packs", "tmp", "manifests"} {
		left, err := os.ReadDir(filepath.Join(st, d))
		require.NoError(t, err)
		require.Empty(t, left, d)
	}
	one := must(t, "snapshot", "create", dir, "--store", st)
	to := filepath.Join(home, "back")
	interrupt(some(to+".partial-*/big"), "snapshot", "restore", one, to, "--store", st)
	left, err := filepath.Glob(to + "*")
	require.NoError(t, err)
	require.Empty(t, left)
	verifies := func() bool {
		b, _ := os.ReadFile(filepath.Join(st, "holder"))
		return strings.Contains(string(b), "verify")
	}
	interrupt(verifies, "verify", "--store-dir", st, "--rate", "1MiB")
}
