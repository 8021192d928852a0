package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/agent/leftovers"
)

func TestRunnerCgroups(t *testing.T) {
	root := t.TempDir()
	find := runnerCgroups(root)
	require.Empty(t, find(1))
	slice := filepath.Join(root, "system.slice", `system-gitlab\x2drunner\x2droost.slice`)
	for _, unit := range []string{"gitlab-runner-roost@1.service", "gitlab-runner-roost@11.service"} {
		require.NoError(t, os.MkdirAll(filepath.Join(slice, unit), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(slice, unit, "cgroup.procs"), nil, 0o644))
	}
	require.Equal(t, []leftovers.Cgroup{{Dir: filepath.Join(slice, "gitlab-runner-roost@1.service"), Runner: true}}, find(1))
	require.Empty(t, find(2))
}
