package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

// longJob is a job that works until somebody ends it, after a job that gives it a workspace.
func longJob() gitlabtest.PipelineDef {
	return chain(
		gitlabtest.JobDef{Name: "build", Script: []string{"echo base > out"}},
		gitlabtest.JobDef{
			Name: "long", Script: []string{"echo more > left", "setsid sleep 1000 < /dev/null > /dev/null 2>&1 &", "echo running=yes", "for i in $(seq 600); do sleep 0.1; done"},
			AfterScript: []string{"echo after=yes"},
		},
	)
}

// played is that with a job that is started by hand.
func played() gitlabtest.PipelineDef {
	def := longJob()
	def.Jobs[1].When = gitlabtest.Manual
	return def
}

// TestGitLabCanceled: a job that GitLab cancels leaves no view, no mount, no layer, no
// process and no file in its slot, and the slot has its next job at once; whenever it
// was canceled.
func TestGitLabCanceled(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	for _, twoPhase := range []bool{false, true} {
		t.Run(fmt.Sprintf("two-phase %v", twoPhase), func(t *testing.T) {
			t.Parallel()
			o := held
			o.TwoPhase = twoPhase
			testCanceled(t, newLab(t, o, 1, 1))
		})
	}
}

func testCanceled(t *testing.T, l *lab) {
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n"})
	t.Run("running", func(t *testing.T) {
		c := l.beginCancel(t, p, longJob())
		j := l.said(c.pl.Job("long"), "running=yes")
		j.Cancel()
		c.leavesNothing("")
		require.Equal(t, "yes", says(c.pl.Job("long"))["after"], "it is canceled with grace")
	})
	t.Run("running, at once", func(t *testing.T) {
		c := l.beginCancel(t, p, longJob())
		j := l.said(c.pl.Job("long"), "running=yes")
		j.ForceCancel()
		c.leavesNothing("")
	})
	t.Run("assigned, not accepted", func(t *testing.T) {
		c := l.beginCancel(t, p, played())
		free := l.freeze(t, c.pl.Job("build"), l.agents["host-a"].cmd.Process.Pid)
		c.pl.Job("long").Play()
		l.given(c.pl.Job("long"))
		c.pl.Job("long").Cancel()
		free()
		c.leavesNothing("running=yes")
	})
	t.Run("granted, not handed out", func(t *testing.T) {
		c := l.beginCancel(t, p, played())
		free := l.freeze(t, c.pl.Job("build"), l.pluginOf(t, "host-a"))
		c.pl.Job("long").Play()
		l.given(c.pl.Job("long"))
		c.pl.Job("long").ForceCancel()
		free()
		c.leavesNothing("running=yes")
	})
	t.Run("in its final report", func(t *testing.T) {
		def := longJob()
		def.Jobs[1].Script = []string{"echo more > left", "echo running=yes"}
		c := l.beginCancel(t, p, def)
		l.status(c.pl.Job("long"), gitlabtest.Pending, gitlabtest.Running)
		j := c.pl.Job("long")
		l.gl.Fault(gitlabtest.Fault{Route: "PUT /api/v4/jobs/{id}", Job: j.ID, Final: true, Do: j.ForceCancel})
		c.spared = true
		c.leavesNothing("")
	})
	l.gl.MustBeRight(t)
}

// canceling is a pipeline whose job long is to be canceled.
type canceling struct {
	t  *testing.T
	l  *lab
	p  *gitlabtest.Project
	pl *gitlabtest.Pipeline
	// spared says that GitLab canceled it after its host had called it a success: its
	// workspace is that of a job that succeeded, and stays.
	spared bool
}

func (l *lab) beginCancel(t *testing.T, p *gitlabtest.Project, def gitlabtest.PipelineDef) *canceling {
	t.Helper()
	return &canceling{t: t, l: l, p: p, pl: p.Run(t, def)}
}

// leavesNothing waits for the end of the canceled job, runs another one, and looks for what
// is left of the first. never is what its log must not have.
func (c *canceling) leavesNothing(never string) {
	c.t.Helper()
	l := c.l
	l.status(c.pl.Job("long"), gitlabtest.Canceled)
	begin := time.Now()
	next := l.run(c.p, chain(gitlabtest.JobDef{Name: "next", Script: []string{
		`echo found=$(cd .. && ls -A | tr '\n' ' ')`, `echo name=$(basename $PWD)`,
	}, Variables: public("ROOST_COMMIT", "never")}))
	c.t.Logf("the next job had ended after %s", time.Since(begin).Round(time.Millisecond))
	name := says(next.Job("next"))["name"]
	require.Equal(c.t, name+" "+name+".tmp", trim(says(next.Job("next"))["found"]), "what a job finds in its builds directory")
	if never != "" {
		require.NotContains(c.t, string(c.pl.Job("long").Trace), never)
	}

	var rec *api.Job
	require.Eventually(c.t, func() bool {
		rec = newest(c.t, l.record(c.pl), "long")
		return rec.Status.Ended()
	}, time.Minute, 50*time.Millisecond, "the coordinator never heard of its end")
	if c.spared { // sealed before the cancel was known is a success, no third state
		require.Equal(c.t, api.StatusSuccess, rec.Status, rec.Reason)
		require.Equal(c.t, rec.AttemptID, rec.Workspace.Output)
	} else {
		require.Equal(c.t, api.StatusCanceled, rec.Status, rec.Reason)
		require.Empty(c.t, rec.Workspace.Output)
	}

	build := string(newest(c.t, l.record(c.pl), "build").Workspace.Output)
	require.NotEmpty(c.t, build)
	views := filepath.Join(l.dir, "host-a", "views")
	require.Eventually(c.t, func() bool { return c.spared || !has(c.t, views, string(rec.AttemptID)) }, time.Minute, 50*time.Millisecond, "its view or layer is there still")
	require.True(c.t, has(c.t, views, build), "the test looks at the wrong place: %v", names(c.t, views))
	slot := filepath.Join(l.slots("host-a"), "1")
	require.Eventually(c.t, func() bool { return len(names(c.t, slot)) == 0 }, time.Minute, 50*time.Millisecond, "left in the slot: %v", names(c.t, slot))
	require.Empty(c.t, mountsBelow(c.t, slot))
	for _, p := range processesOf(c.t, "CI_BUILDS_DIR="+l.builds) {
		require.NotContains(c.t, p, "sleep")
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}

func has(t testing.TB, dir, name string) bool {
	for _, n := range names(t, dir) {
		if strings.Contains(n, name) {
			return true
		}
	}
	return false
}

// status waits until a job has one of these.
func (l *lab) status(j gitlabtest.Job, want ...gitlabtest.Status) {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		for _, w := range want {
			if j.Now().Status == w {
				return true
			}
		}
		return false
	}, time.Minute, 5*time.Millisecond, "job %s is never %v", j.Name, want)
}

// given waits until GitLab has given a job to somebody.
func (l *lab) given(j gitlabtest.Job) {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(j.Now().Log.Assigned) > 0 }, time.Minute, 5*time.Millisecond, "nobody takes job %s", j.Name)
}

// freeze stops a process when a job has ended and the slot is offered again, and gives
// what lets it go on.
func (l *lab) freeze(t *testing.T, after gitlabtest.Job, pid int) (free func()) {
	t.Helper()
	l.status(after, gitlabtest.Success)
	ended := after.Now().Ended
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		calls := l.gl.Calls("POST /api/v4/jobs/request")
		if n := len(calls); n > 0 && calls[n-1].Start.After(ended) {
			break // it is asked for again, for that slot
		}
	}
	time.Sleep(time.Second)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	free = func() { syscall.Kill(pid, syscall.SIGCONT) } //nolint:errcheck // it may have ended
	t.Cleanup(free)
	return free
}

// pluginOf is the process that speaks with a host's runners.
func (l *lab) pluginOf(t *testing.T, host string) int {
	t.Helper()
	agent := l.agents[host].cmd.Process.Pid
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(agent), "-f", "plugin").Output()
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.Fields(string(out))[0])
	require.NoError(t, err)
	return pid
}
