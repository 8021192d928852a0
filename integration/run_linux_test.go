package integration

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
)

// long is a pipeline whose second job runs until somebody ends it.
const long = `stages: [one, two]
build: {stage: one, script: [echo built > file]}
hang: {stage: two, script: [touch "$MARK", sleep 600]}
`

// longCommand is roost run on it.
func longCommand(t *testing.T, dir, state string) *exec.Cmd {
	t.Helper()
	require.NoError(t, os.Chmod(dir, 0o777)) //nolint:gosec // jobs run as another user
	require.NoError(t, os.WriteFile(filepath.Join(dir, "long.yml"), []byte(long), 0o600))
	cmd := exec.Command(roostBinary(t), "run", "long.yml", "--state", state, "--project", "p", "--var", "MARK="+filepath.Join(dir, "mark"))
	cmd.Dir = dir
	return cmd
}

// startMarked starts it and waits until its second job runs.
func startMarked(t *testing.T, cmd *exec.Cmd, dir string) string {
	t.Helper()
	mark := filepath.Join(dir, "mark")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	require.Eventually(t, func() bool { _, err := os.Stat(mark); return err == nil }, time.Minute, 20*time.Millisecond)
	return mark
}

// startLong does both and keeps what is said.
func startLong(t *testing.T, dir, state string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := longCommand(t, dir, state)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	startMarked(t, cmd, dir)
	return cmd, &out
}

// TestRunKilled: when roost run is killed nothing of it goes on, and what it left
// does not go on beside the next run.
func TestRunKilled(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	state, dir := stateDir(t), stateDir(t)
	cmd, _ := startLong(t, dir, state)
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait() //nolint:errcheck // it was killed
	require.Eventually(t, func() bool { return len(processesOf(t, state)) == 0 }, time.Minute, 50*time.Millisecond, "%v", processesOf(t, state))
	require.Empty(t, mountsBelow(t, state), "the agent outlives its parent for as long as cleaning up takes")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "short.yml"), []byte("build: {script: ['true']}\n"), 0o600))
	r := roost(t, dir, "run", "short.yml", "--state", state, "--project", "p")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "note: canceled pipeline 1, which was left when its roost run was killed")
	r = roost(t, dir, "why", "hang", "--pipeline", "1", "--state", state)
	require.Contains(t, r.out, "canceled")
	require.Empty(t, mountsBelow(t, state))
}

// TestRunInterrupted: Ctrl-C and the end of the terminal cancel the pipeline.
func TestRunInterrupted(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	// Below nohup the signal would be ignored here, and in what we start.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	defer signal.Stop(heard)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			state, dir := stateDir(t), stateDir(t)
			cmd, out := startLong(t, dir, state)
			require.NoError(t, cmd.Process.Signal(sig))
			cmd.Wait() //nolint:errcheck // its status is looked at
			require.Equal(t, 130, cmd.ProcessState.ExitCode(), out)
			require.Contains(t, out.String(), "pipeline 1: canceled")
			require.Empty(t, processesOf(t, state))
			require.Empty(t, mountsBelow(t, state))
		})
	}
}

// TestRunUnheard: nobody reads any more what roost run has to say. It goes on, and
// still cleans up when it is interrupted.
func TestRunUnheard(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	state, dir := stateDir(t), stateDir(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd := longCommand(t, dir, state)
	cmd.Stdout, cmd.Stderr = w, w
	mark := startMarked(t, cmd, dir)
	require.NoError(t, w.Close())
	require.NoError(t, r.Close())
	require.FileExists(t, mark)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	cmd.Wait() //nolint:errcheck // its status is looked at
	require.Equal(t, 130, cmd.ProcessState.ExitCode())
	require.Empty(t, processesOf(t, state))
	require.Empty(t, mountsBelow(t, state))
}
