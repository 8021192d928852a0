package integration

import (
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

// smallDisk mounts a new ext4 of some MiB at dir.
func smallDisk(t *testing.T, dir string, mib string) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "disk.img")
	run := func(name string, args ...string) {
		out, err := exec.Command(name, args...).CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
	}
	run("truncate", "-s", mib+"M", img)
	run("mkfs.ext4", "-q", "-m", "0", img)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	run("mount", "-o", "loop", img, dir)
	t.Cleanup(func() { run("umount", dir) })
}

// TestFullDisk runs jobs on a host whose disk is too small for them: what fails
// says so, nothing is half done, and the host works on afterwards.
func TestFullDisk(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Loop, testenv.Bash)
	bin := roostBinary(t)
	f := &fleet{t: t, dir: stateDir(t), bin: bin, agents: map[string]*proc{}}
	smallDisk(t, filepath.Join(f.dir, "host-b"), "64")
	conf := filepath.Join(f.dir, "roost.toml")
	require.NoError(t, os.WriteFile(conf, []byte("[coordinator]\ninfra_retries = 1\n"), 0o600))
	f.startCoordinator(nil, "--config", conf)
	t.Cleanup(f.stop)
	for _, name := range []string{"host-a", "host-b"} {
		f.startAgent(name, nil)
		f.agents[name].waitReady()
	}

	// A script that fills its own view fails as a script, and its space comes back.
	p := f.run("full", `
fill: {tags: [host-b], script: ["head -c 90M /dev/urandom > big"]}
`)
	fill := job(t, p, "fill")
	require.Equal(t, api.StatusFailed, fill.Status)
	require.Equal(t, api.FailScript, fill.Code)
	require.Contains(t, f.log(fill), "No space left on device")

	// A tree that does not fit fails before the script, as what it is.
	p = f.run("full", `
stages: [one, two]
make: {stage: one, tags: [host-a], script: ["head -c 80M /dev/urandom > big"]}
look: {stage: two, tags: [host-b], script: ["echo the script ran"]}
`)
	look := job(t, p, "look")
	require.Equal(t, api.StatusFailed, look.Status)
	require.Contains(t, []api.Code{api.FailDiskFull, api.FailRetries}, look.Code)
	require.Contains(t, strings.ToLower(look.Reason), "space left")
	require.NotContains(t, f.log(look), "the script ran\n")

	// And then there is room again.
	f.requireSuccess(f.run("full", `
small: {tags: [host-b], script: ["head -c 25M /dev/urandom > f", "sha256sum f"]}
`))
	f.stop()
	require.Equal(t, []string{filepath.Join(f.dir, "host-b")}, mountsBelow(t, f.dir), "only the disk itself may be mounted")
	require.Empty(t, processesOf(t, f.dir))
}

// TestNewerVersion opens a store and a coordinator's state that a newer version
// made: refused in words, with status 3, and untouched.
func TestNewerVersion(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	f := newFleet(t, roostBinary(t), 1)
	f.requireSuccess(f.run("p", "job: {script: [\"echo x > f\"]}"))
	url := f.url
	f.agents["host-a"].stop()
	agentStore := filepath.Join(f.dir, "host-a", "store.db")
	raiseVersion(t, agentStore)
	r := roost(t, f.dir, "agent", "--name", "host-a", "--coordinator", url,
		"--token-file", filepath.Join(f.dir, "coordinator", "agent.token"), "--store-dir", filepath.Dir(agentStore))
	require.Equal(t, 3, r.code, r.errOut)
	require.Contains(t, r.errOut, "newer version")
	f.stop()
	dbs, err := filepath.Glob(filepath.Join(f.dir, "coordinator", "*.db"))
	require.NoError(t, err)
	require.Len(t, dbs, 1)
	raiseVersion(t, dbs[0])
	r = roost(t, f.dir, "coordinator", "--state-dir", filepath.Join(f.dir, "coordinator"), "--listen", "127.0.0.1:0")
	require.Equal(t, 3, r.code, r.errOut)
	require.Contains(t, r.errOut, "newer version")
}

// raiseVersion makes a database look as if a much newer version had made it.
func raiseVersion(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer db.Close()
	var v int
	require.NoError(t, db.QueryRow("PRAGMA user_version").Scan(&v))
	require.Positive(t, v, "%s has its version elsewhere", path)
	_, err = db.Exec("PRAGMA user_version = 9999")
	require.NoError(t, err)
}
