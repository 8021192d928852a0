package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// TestVerify damages the store of a stopped agent, and has roost verify repair it,
// killed at each of its steps first.
func TestVerify(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	bin, err := failBinary()
	require.NoError(t, err)
	f := &fleet{t: t, dir: stateDir(t), bin: bin, agents: map[string]*proc{}}
	f.startCoordinator(nil)
	t.Cleanup(f.stop)
	host := filepath.Join(f.dir, "host-a")
	conf := f.config(host)
	f.agentArgs = []string{"--config", conf, "--room-every", "50ms"}
	f.startAgent("host-a", nil)
	f.agents["host-a"].waitReady()
	p := f.run("v", "make: {script: [\"head -c 3M /dev/urandom > big\", \"sha256sum big > sum\"]}")
	f.requireSuccess(p)
	id := job(t, p, "make").Workspace.Output
	verify := func(env string, args ...string) (int, store.ScrubReport, string) {
		t.Helper()
		return runVerify(t, bin, env, args...)
	}
	code, _, text := verify("", "--config", conf)
	require.Equal(t, 3, code, text)
	require.Contains(t, text, "held by pid")
	f.agents["host-a"].stop()
	delete(f.agents, "host-a")

	code, r, text := verify("", "--config", conf)
	require.Equal(t, 0, code, text)
	require.Empty(t, r.Damages)
	require.Positive(t, r.Layers)
	before := treeSums(t, host, id)
	for step, what := range map[string]string{
		"store.scrub.remade": "indexes", "store.scrub.quarantined": "indexes",
		"store.scrub.mended": "views", "store.scrub.revived": "views",
	} {
		damageOne(t, filepath.Join(host, what), 100<<10*len(what)%200000)
		code, _, text = verify(step, "--config", conf)
		require.Equal(t, -int(syscall.SIGKILL), code, "%s was not reached: %s", step, text)
		code, r, text = verify("", "--config", conf)
		require.Equal(t, 0, code, "%s: %s %+v", step, text, r)
		require.Equal(t, before, treeSums(t, host, id), step)
	}

	// Without another copy: named, status 1, and not used.
	damageOne(t, filepath.Join(host, "views"), 5000)
	code, r, _ = verify("", "--store-dir", host)
	require.Equal(t, 1, code)
	require.Len(t, r.Suspect, 1)
	require.Equal(t, "big", r.Damages[0].Name)

	// The agent finds a copy by itself: the blob store has one.
	f.startAgent("host-a", nil)
	f.agents["host-a"].waitReady()
	log := f.agents["host-a"].log.Name()
	require.Eventually(t, func() bool { return strings.Contains(tailFile(log, 200), "restored=1") }, time.Minute, 100*time.Millisecond, "log:\n%s", tailFile(log, 20))
	f.requireSuccess(f.run("v", "make: {script: [\"sha256sum --check sum\"]}"))
	f.stop()
	require.Equal(t, before, treeSums(t, host, id))
	requireNothingLeft(t, f.dir)
}

// runVerify runs roost verify, to be killed at the step env, and returns its exit status, less
// than 0 if a signal ended it, its report and its standard error.
func runVerify(t *testing.T, bin, env string, args ...string) (int, store.ScrubReport, string) {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"verify", "--json"}, args...)...)
	cmd.Env = append(os.Environ(), fail.Env+"="+env)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var r store.ScrubReport
	if out.Len() > 0 {
		require.NoError(t, json.Unmarshal(out.Bytes(), &r), out.String())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return -int(ws.Signal()), r, errOut.String()
		}
		return exit.ExitCode(), r, errOut.String()
	}
	require.NoError(t, err)
	return 0, r, errOut.String()
}

// damageOne flips a bit of the largest file below dir, and leaves its looks.
func damageOne(t *testing.T, dir string, at int) {
	t.Helper()
	var path string
	var largest os.FileInfo
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if fi, err := d.Info(); err == nil && (largest == nil || fi.Size() > largest.Size()) {
			path, largest = p, fi
		}
		return nil
	}))
	require.NotNil(t, largest, "no file below %s", dir)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[at%len(data)] ^= 4
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.Write(data)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	require.NoError(t, os.Chtimes(path, largest.ModTime(), largest.ModTime()))
}

// treeSums is what a snapshot's files hold, read through a mount.
func treeSums(t *testing.T, dir string, id snapshot.ID) string {
	t.Helper()
	var out []byte
	t.Run("look", func(t *testing.T) { // its end unmounts
		at := mountSnapshot(t, dir, id)
		var err error
		out, err = exec.Command("sh", "-c", "cd '"+at+"' && find . -type f | sort | xargs sha256sum").Output()
		require.NoError(t, err)
		require.NotEmpty(t, out)
	})
	return string(out)
}
