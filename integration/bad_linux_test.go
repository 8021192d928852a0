package integration

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestBadFiles gives the command files that can't run: everything wrong is told
// at once, with its place, nothing runs, and the status is 2.
func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"malformed": {"job:\n  script: [a\n", []string{"p.yml:"}},
		"cycle":     {"a: {script: [x], needs: [b]}\nb: {script: [x], needs: [a]}\n", []string{"p.yml:1:", "NEED_CYCLE"}},
		"unknown need": {
			"stages: [one]\nbuild: {stage: one, script: [x]}\ntest: {stage: one, script: [x], needs: [biuld]}\n",
			[]string{"p.yml:3:", "NEED_UNKNOWN", `did you mean "build"`},
		},
		"several at once": {
			"stages: [one]\na: {stage: oen, script: [x], scritp: [y]}\nb: {stage: one}\nc: {stage: one, script: [x], resource_group: g}\n",
			[]string{"STAGE_UNKNOWN", `did you mean "script"`, "p.yml:3:", "resource_group", "not supported yet"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "p.yml"), []byte(c.text), 0o600))
			r := roost(t, dir, "run", "p.yml", "--state", filepath.Join(dir, "state"))
			require.Equal(t, 2, r.code, r.errOut)
			for _, w := range c.want {
				require.Contains(t, r.errOut, w)
			}
			require.NoDirExists(t, filepath.Join(dir, "state"), "nothing may have been started")
		})
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"run"},
		{"run", "none.yml"},
		{"nonsense"},
		{"run", "--nonsense"},
		{"agent", "--slots", "x"},
		{"coordinator", "--listen", "nonsense"},
		{"config", "check", "none.toml"},
	} {
		r := roost(t, dir, args...)
		require.Equal(t, 2, r.code, "%v: %s", args, r.errOut)
		require.Contains(t, r.errOut, "roost: ", "%v", args)
	}
}

func TestOccupiedPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	r := roost(t, t.TempDir(), "coordinator", "--state-dir", filepath.Join(t.TempDir(), "c"), "--listen", l.Addr().String())
	require.Equal(t, 3, r.code, r.errOut)
	require.Contains(t, r.errOut, l.Addr().String())
	require.Contains(t, r.errOut, "something listens on")
}

func TestTwoAgentsWithOneName(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	f := newFleet(t, roostBinary(t), 1)
	r := roost(t, f.dir, "agent", "--name", "host-a", "--coordinator", f.url,
		"--token-file", filepath.Join(f.dir, "coordinator", "agent.token"), "--store-dir", filepath.Join(f.dir, "other"))
	require.Equal(t, 4, r.code, r.errOut)
	require.Contains(t, r.errOut, "host-a")
	f.requireSuccess(f.run("p", "job: {script: [true]}"))
}

func TestTwoAgentsOnOneStore(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	f := newFleet(t, roostBinary(t), 1)
	r := roost(t, f.dir, "agent", "--name", "other", "--coordinator", f.url,
		"--token-file", filepath.Join(f.dir, "coordinator", "agent.token"), "--store-dir", filepath.Join(f.dir, "host-a"))
	require.Equal(t, 3, r.code, r.errOut)
	require.Contains(t, r.errOut, "host-a")
}

// TestScriptThatFails tells which job failed and how, skips what stood on it, and
// ends with 1.
func TestScriptThatFails(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	dir := stateDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p.yml"), []byte(`
stages: [one, two]
bad: {stage: one, script: ["echo about to fail", "exit 7", "echo never"]}
after: {stage: two, needs: [bad], script: [true]}
`), 0o644))
	r := roost(t, dir, "run", "p.yml", "--state", filepath.Join(dir, "state"), "--report", filepath.Join(dir, "r.json"))
	require.Equal(t, 1, r.code, r.errOut)
	require.Contains(t, r.errOut, "about to fail")
	require.NotContains(t, r.errOut, "echo never\n")
	var rep struct {
		Status string
		Jobs   []struct {
			Name, Status string
			ExitCode     int `json:"exit_code"`
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "r.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &rep))
	require.Equal(t, "failed", rep.Status)
	require.Equal(t, 7, rep.Jobs[0].ExitCode)
	require.Equal(t, "skipped", rep.Jobs[1].Status)
	requireNothingLeft(t, dir)
}

// TestInterrupt cancels a run in the middle of a job: status 130, and nothing of
// it is left.
func TestInterrupt(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	dir := stateDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p.yml"),
		[]byte("slow: {script: [\"(sleep 8128 & sleep 8129)\"]}\n"), 0o644))
	cmd := exec.Command(roostBinary(t), "run", "p.yml", "--state", filepath.Join(dir, "state"), "--logs")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(processesOf(t, "sleep\x008129")) > 0 }, time.Minute, 50*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	err := cmd.Wait()
	require.Error(t, err)
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), out.String())
	require.Contains(t, out.String(), "canceled")
	require.Empty(t, processesOf(t, "sleep\x008129"))
	require.Empty(t, processesOf(t, "sleep\x008128"))
	requireNothingLeft(t, dir)
}

// TestCorruptLayer: where nobody has a good copy any more, what is corrupt is not
// used; with the holder it is repaired (TestDamagedBlobComesFromItsHolder).
func TestCorruptLayer(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	t.Parallel()
	f := newFleet(t, roostBinary(t), 2)
	dir := stateDir(t)
	id := f.submit("corrupt", `
stages: [one, two, three]
make: {stage: one, tags: [host-a], script: ["head -c 200000 /dev/urandom > f"]}
hold: {stage: two, tags: [host-b], workspace: false, script: ["until test -e `+dir+`/go; do sleep 0.1; done"]}
look: {stage: three, needs: [hold, make], tags: [host-b], script: ["echo ran; cat f | sha256sum"]}
`)
	require.Eventually(t, func() bool {
		p, err := f.client.Pipeline(t.Context(), id)
		return err == nil && job(t, p, "hold").Status == api.StatusRunning && job(t, p, "make").Layer.Durable
	}, time.Minute, 20*time.Millisecond)
	blobs := filepath.Join(f.dir, "coordinator", "blobs")
	require.Eventually(t, func() bool { return len(blobFiles(t, blobs)) >= 2 }, time.Minute, 20*time.Millisecond)
	gone := f.agents["host-a"]
	delete(f.agents, "host-a")
	gone.mu.Lock()
	gone.ended = true
	gone.mu.Unlock()
	gone.kill()
	for _, name := range blobFiles(t, blobs) {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		b[len(b)/2] ^= 1
		require.NoError(t, os.Chmod(name, 0o600))
		require.NoError(t, os.WriteFile(name, b, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o644))
	look := job(t, f.wait(id), "look")
	require.Equal(t, api.StatusFailed, look.Status)
	require.Contains(t, []api.Code{api.FailCorrupt, api.FailRetries}, look.Code)
	require.Regexp(t, "corrupt|no such blob", look.Reason) // the first says why, those after it find none
}

func blobFiles(t testing.TB, dir string) []string {
	var out []string
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && len(d.Name()) == 64 {
			out = append(out, p)
		}
		return nil
	})
	return out
}

// TestHostThatVanishes kills an agent for good in the middle of a job: when its
// lease has ended the job runs on the other host.
func TestHostThatVanishes(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	f := &fleet{t: t, dir: stateDir(t), bin: roostBinary(t), agents: map[string]*proc{}}
	conf := filepath.Join(f.dir, "roost.toml")
	require.NoError(t, os.WriteFile(conf, []byte("[coordinator]\nhost_lease = \"5s\"\n"), 0o600))
	f.startCoordinator(nil, "--config", conf)
	t.Cleanup(f.stop)
	f.startAgent("host-a", nil)
	f.agents["host-a"].waitReady()
	// No other test, nor any other program of the machine, sleeps that long.
	id := f.submit("vanish", "job: {script: [\"test $ROOST_HOST = host-b || sleep 8127\"]}")
	require.Eventually(t, func() bool {
		p, err := f.client.Pipeline(t.Context(), id)
		return err == nil && p.Jobs[0].Status == api.StatusRunning
	}, time.Minute, 50*time.Millisecond)
	f.startAgent("host-b", nil)
	f.agents["host-b"].waitReady()
	gone := f.agents["host-a"]
	delete(f.agents, "host-a")
	gone.mu.Lock()
	gone.ended = true
	gone.mu.Unlock()
	gone.kill()
	p := f.wait(id)
	f.requireSuccess(p)
	require.Equal(t, "host-b", p.Jobs[0].Host)
	require.Equal(t, 2, p.Jobs[0].Attempt)
	// What the dead agent left is cleaned when it is back.
	f.startAgent("host-a", nil)
	f.agents["host-a"].waitReady()
	require.Eventually(t, func() bool { return len(processesOf(t, "sleep\x008127")) == 0 }, time.Minute, 100*time.Millisecond)
	f.stop()
	requireNothingLeft(t, f.dir)
}
