package integration

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

// talk is a pipeline whose second job counts until mark is there, and whose third finds how
// far it came.
func talk(mark string) gitlabtest.PipelineDef {
	return chain(
		gitlabtest.JobDef{Name: "build", Script: []string{"echo base > out"}},
		gitlabtest.JobDef{Name: "talk", Script: []string{
			"echo running=yes",
			"n=0; while ! test -e " + mark + `; do n=$((n + 1)); echo "count $n $(printf %0200d $n)"; sleep 0.02; done; echo $n > out; echo last=$n`,
		}},
		gitlabtest.JobDef{Name: "after", Script: []string{"echo out=$(cat out)", "echo state=$ROOST_WORKSPACE_STATE"}},
	)
}

var counted = regexp.MustCompile(`(?m)^count (\d+) 0*(\d+)\r?$`)

// talkedAll says that no line of talk is missing, doubled or broken, and that the job after
// it found what it left.
func (l *lab) talkedAll(pl *gitlabtest.Pipeline) {
	l.t.Helper()
	j := pl.Job("talk")
	lines := counted.FindAllStringSubmatch(string(j.Trace), -1)
	for i, m := range lines {
		require.Equal(l.t, fmt.Sprint(i+1), m[1])
		require.Equal(l.t, m[1], m[2])
	}
	require.Equal(l.t, says(j)["last"], fmt.Sprint(len(lines)))
	require.Len(l.t, j.Log.Finals, 1)
	after := says(pl.Job("after"))
	require.Equal(l.t, map[string]string{"out": says(j)["last"], "state": "FULL"}, after)
	rec := l.record(pl)
	talk := newest(l.t, rec, "talk")
	require.Equal(l.t, api.StatusSuccess, talk.Status)
	require.Equal(l.t, []string{string(talk.Workspace.Output)}, newest(l.t, rec, "after").Workspace.Inputs)
	l.gl.MustBeRight(l.t)
}

// TestGitLabCoordinatorDown: a job whose coordinator goes away runs on, GitLab hears of its
// end, and once; the coordinator hears of it later, and the next job finds its files.
func TestGitLabCoordinatorDown(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l := newLab(t, held, 1, 1)
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n"})
	pl := p.Run(t, talk(l.mark("end")))
	j := l.said(pl.Job("talk"), "running=yes")
	l.coord.stop()
	require.NoError(t, os.WriteFile(l.mark("end"), nil, 0o600))
	begin := time.Now()
	l.status(j, gitlabtest.Success)
	took := time.Since(begin)
	t.Logf("without its coordinator the job ended %s after its script", took.Round(10*time.Millisecond))
	require.Less(t, took, 2*time.Minute)
	require.Contains(t, string(j.Now().Trace), "the coordinator does not answer; it hears of this job later")

	l.startCoordinator(nil, "--config", l.conf)
	l.ends(pl, gitlabtest.Success)
	l.talkedAll(pl)
}

// TestGitLabAgentKilled: a job whose agent or adapter is killed runs on; no byte of its log
// is lost, and its workspace is kept by the agent that comes after.
func TestGitLabAgentKilled(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l := newLab(t, held, 1, 1)
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n"})
	pl := p.Run(t, talk(l.mark("end")))
	j := l.said(pl.Job("talk"), "running=yes")
	further := func() {
		n := len(j.Now().Trace)
		require.Eventually(t, func() bool { return len(j.Now().Trace) > n+2000 }, time.Minute, 20*time.Millisecond, "its log does not go on")
	}
	for range 2 {
		l.agents["host-a"].kill()
		l.agents["host-a"].waitReady()
		further()
		require.NoError(t, syscall.Kill(l.pluginOf(t, "host-a"), syscall.SIGKILL))
		further()
	}
	// Once more, and now the script ends while there is no agent.
	l.agents["host-a"].kill()
	require.NoError(t, os.WriteFile(l.mark("end"), nil, 0o600))
	l.ends(pl, gitlabtest.Success)
	require.GreaterOrEqual(t, l.agents["host-a"].killed(), 3)
	l.talkedAll(pl)
	require.Equal(t, 1, strings.Count(string(j.Now().Trace), "job success; sealed as"))
}
