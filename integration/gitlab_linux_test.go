package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
)

// A pipeline of one job after another finds what the one before left, on the host
// that has it.
func TestGitLabLine(t *testing.T) {
	l := newLab(t, gitlabtest.Options{}, 2, 1)
	p := l.gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
	pl := p.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{
		{Name: "build", Stage: "build", Script: []string{"date +%N > out", "pwd", "echo \"host=$ROOST_HOST state=$ROOST_WORKSPACE_STATE\""}},
		{Name: "test", Stage: "test", Script: []string{"cat out", "echo more >> out"}},
		{Name: "deploy", Stage: "deploy", Script: []string{"test $(wc -l < out) = 2"}},
	}})
	pl.MustWait(t, gitlabtest.Success, time.Minute)
	for _, j := range pl.Jobs() {
		t.Logf("%s:\n%s", j.Name, j.Trace)
	}
	l.gl.MustBeRight(t)
	require.NotEmpty(t, pl.Job("build").Trace)
}
