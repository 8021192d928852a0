package runner_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/dockertest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// Section 4: the volumes of the configuration are seen as they are when the job comes,
// the helper container takes sources and artifacts, and cleaning up comes before the
// final report.
func TestDocker(t *testing.T) {
	t.Parallel()
	d := dockertest.Start(t)
	d.Image("tools:1")
	ws := t.TempDir()
	l := newLab(t, setup{entry: func(e *runner.Entry) {
		e.Executor, e.BuildsDir, e.CacheDir = "docker", "", ""
		e.Docker = &runner.Docker{Image: "tools:1", HelperImage: "tools:1", NetworkMode: "host", Host: d.Host, Volumes: []string{ws + ":/builds"}}
	}})
	mounted := filepath.Join(ws, "p1")
	require.NoError(t, os.Mkdir(mounted, 0o755))
	mount(t, mounted)
	vars := []gitlabtest.Variable{{Key: "GIT_CLONE_PATH", Value: "/builds/p1"}}
	pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{
		{
			Name: "a", Stage: "build", Variables: vars, Artifacts: gitlabtest.Archive("out"), Image: "tools:1",
			Script: []string{"pwd; ls /", "mkdir out; echo x > out/f; echo kept > /tmp/state"}, AfterScript: []string{"cat /tmp/state"},
		},
		{Name: "b", Variables: vars, Script: []string{"cat out/f"}, Services: []string{"tools:1"}},
	}})
	pl.MustWait(t, gitlabtest.Success, 2*time.Minute)
	require.True(t, said(pl.Job("a"), "\n/builds/p1\n"))
	require.True(t, said(pl.Job("a"), "\nkept\n"), "after_script runs in the same container")
	require.FileExists(t, filepath.Join(mounted, "out", "f"))
	fi, err := os.Stat(filepath.Join(mounted, "README.md"))
	require.NoError(t, err)
	require.EqualValues(t, 0o666, fi.Mode().Perm(), "the helper's umask is 0")
	require.True(t, eventually(time.Minute, func() bool { return l.r.Running() == 0 }))
	require.Empty(t, d.Docker("ps", "-aq"))

	pl = l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{{Name: "a", Script: []string{"echo go; sleep 60"}}}})
	require.True(t, eventually(time.Minute, func() bool { return has("\ngo\n")(t, l, pl) }))
	pl.Job("a").ForceCancel()
	require.True(t, eventually(time.Minute, func() bool { return l.r.Running() == 0 }))
	require.Empty(t, d.Docker("ps", "-aq"))
	require.Len(t, pl.Job("a").Log.Refused, 1)
}
