package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
)

// A script that only root can read runs as the jobs' user, with that user's groups and
// without the runner's directories.
func TestScriptsRunAsTheJobsUser(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Bash)
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("CUSTOM_ENV_X", "kept")
	script := filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(script, []byte("id -un; id -Gn; echo \"$CUSTOM_ENV_X,$TMPDIR,$USER\"; exit 7\n"), 0o600))
	cmd, err := shellAs("nobody")(t.Context(), script)
	require.NoError(t, err)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.Error(t, cmd.Run())
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
	require.Equal(t, "nobody\nnogroup\nkept,,nobody\n", out.String())
	_, err = shellAs("no-such-user")(t.Context(), script)
	require.Error(t, err)
}

func TestGitLabCustomOutsideOfARunner(t *testing.T) {
	t.Setenv("JOB_RESPONSE_FILE", "")
	var out, errs bytes.Buffer
	require.Zero(t, realMain([]string{"gitlab-custom", "config"}, nil, &out, &errs), "an optional job runs as on any runner")
	require.Contains(t, out.String(), `"driver":{"name":"roost"`)
	require.Contains(t, errs.String(), "NO WORKSPACE")
	t.Setenv("CUSTOM_ENV_ROOST_WORKSPACE", "required")
	require.Equal(t, 2, realMain([]string{"gitlab-custom", "config"}, nil, &out, &errs), "a system failure")
}
