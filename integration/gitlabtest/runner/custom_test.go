package runner_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// driver is a custom executor's programs: it writes down what it is called for.
const driver = `#!/bin/bash
echo "$1 $(basename "$2" 2>/dev/null) $3" | sed 's/ *$//' >> DIR/calls
case "$1" in
config) echo '{"builds_dir":"DIR/chosen","cache_dir":"DIR/cache","job_env":{"EXTRA":"env"},"driver":{"name":"drv","version":"v1"}}' ;;
prepare) if [ -n "$CUSTOM_ENV_BAD" ]; then exit 2; fi; test -f "$JOB_RESPONSE_FILE" && test -d "$TMPDIR" ;;
run) bash "$2" || { c=$?; echo $c > "$BUILD_EXIT_CODE_FILE"; exit $BUILD_FAILURE_EXIT_CODE; } ;;
cleanup) [ -n "$CUSTOM_ENV_CI_JOB_ID" ] && [ "$EXTRA" = env ] && echo clean >> DIR/calls ;;
esac
`

// Section 6: the driver's programs, their order, and what their exit codes mean.
func TestCustom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exe := filepath.Join(dir, "driver")
	require.NoError(t, os.WriteFile(exe, []byte(strings.ReplaceAll(driver, "DIR", dir)), 0o700))
	l := newLab(t, setup{entry: func(e *runner.Entry) {
		e.Executor, e.Custom = "custom", &runner.Custom{
			ConfigExec: exe, ConfigArgs: []string{"config"}, PrepareExec: exe, PrepareArgs: []string{"prepare"},
			RunExec: exe, RunArgs: []string{"run"}, CleanupExec: exe, CleanupArgs: []string{"cleanup"},
		}
	}})
	calls := func() string {
		b, err := os.ReadFile(dir + "/calls")
		require.NoError(t, err)
		require.NoError(t, os.Remove(dir+"/calls"))
		return strings.TrimSpace(string(b))
	}
	j := l.one(t, job{
		Script: []string{"pwd", "echo $EXTRA"}, AfterScript: []string{"echo after"}, Artifacts: gitlabtest.Archive("README.md"),
	}, gitlabtest.Success)
	require.True(t, said(j, filepath.Join(dir, "chosen", "group", "demo")+"\nenv\n") || said(j, filepath.Join(dir, "chosen", "group", "demo")+"\n"), "%s", j.Trace)
	require.Equal(t, strings.Join([]string{
		"config", "prepare", "run script.prepare_script prepare_script", "run script.get_sources get_sources",
		"run script.build_script build_script", "run script.after_script after_script",
		"run script.upload_artifacts_on_success upload_artifacts_on_success", "run script.cleanup_file_variables cleanup_file_variables", "cleanup", "clean",
	}, "\n"), calls())
	j = l.one(t, job{Script: []string{"exit 7"}}, gitlabtest.Failed)
	require.Equal(t, 7, j.ExitCode)
	require.Equal(t, "script_failure", j.FailureReason)
	calls()
	j = l.one(t, job{}, gitlabtest.Failed, "BAD", "1")
	require.Equal(t, "runner_system_failure", j.FailureReason)
	require.Equal(t, 3, strings.Count(calls(), "prepare"))
}
