package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestGitLabRetry: every attempt at a job starts from what its parents left: not from the
// leftovers of one that failed, and not from its own output when it is run again. Jobs
// after it start from its newest success.
func TestGitLabRetry(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l := newLab(t, held, 1, 1)
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n", ".gitignore": "out\n*.o\n"})
	pl := l.run(p, chain(
		gitlabtest.JobDef{Name: "build", Script: []string{"echo base > out"}},
		gitlabtest.JobDef{Name: "unit", Retry: 1, Script: []string{
			`echo found=$(ls -A | grep -v '^\.git$' | tr '\n' ' ') out=$(cat out | tr '\n' ' ')`,
			`echo again >> out; touch left.o; echo changed > README; echo new > untracked`,
			"if ! test -e " + l.mark("tried") + "; then touch " + l.mark("tried") + "; exit 1; fi",
		}},
		gitlabtest.JobDef{Name: "deploy", Script: []string{`echo runs=$(grep -c again out)`, `echo host=$ROOST_HOST`}},
	))
	const clean = ".gitignore README out out=base "
	tries := attemptsAt(pl, "unit")
	require.Len(t, tries, 2)
	require.Equal(t, gitlabtest.Failed, tries[0].Status)
	require.Equal(t, "script_failure", tries[0].FailureReason)
	for _, j := range tries {
		require.Equal(t, trim(clean), trim(says(j)["found"]))
	}
	require.Equal(t, "1", says(pl.Job("deploy"))["runs"])

	// Run again by a person after all was green.
	pl.Retry("unit")
	l.ends(pl, gitlabtest.Success)
	require.Equal(t, trim(clean), trim(says(pl.Job("unit"))["found"]))
	pl.Retry("deploy")
	l.ends(pl, gitlabtest.Success)
	require.Equal(t, "1", says(pl.Job("deploy"))["runs"])

	rec := l.record(pl)
	unit, deploy := newest(t, rec, "unit"), newest(t, rec, "deploy")
	require.Equal(t, []string{string(newest(t, rec, "build").Workspace.Output)}, unit.Workspace.Inputs)
	require.Equal(t, []string{string(unit.Workspace.Output)}, deploy.Workspace.Inputs)
	require.Equal(t, api.StateFull, deploy.Workspace.State)
	l.gl.MustBeRight(t)
}

// attemptsAt are the attempts at a job, the oldest first.
func attemptsAt(pl *gitlabtest.Pipeline, name string) []gitlabtest.Job {
	var out []gitlabtest.Job
	for _, j := range pl.Jobs() {
		if j.Name == name {
			out = append(out, j)
		}
	}
	return out
}
