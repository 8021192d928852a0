package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestGitLabTwoProjects: jobs of two projects at the same time on one host, and one after
// the other in one slot, see nothing of each other in their builds directory: no
// workspace, no seed, and not what a job that was cut off left beside its own.
func TestGitLabTwoProjects(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l := newLab(t, held, 1, 2)
	one := l.gl.AddProject(t, "group/one", map[string]string{"README": "one\n"})
	two := l.gl.AddProject(t, "group/two", map[string]string{"README": "two\n"})
	wait := func(mark string) string {
		return "for i in $(seq 600); do test -e " + l.mark(mark) + " && break; sleep 0.05; done; test -e " + l.mark(mark)
	}
	a := one.Run(t, chain(gitlabtest.JobDef{Name: "build", Script: []string{
		"echo one > secret", "pwd > " + l.mark("a.new"), "mv " + l.mark("a.new") + " " + l.mark("a"), wait("b"),
		`echo found=$(cd .. && ls -A | tr '\n' ' ') name=$(basename $PWD)`,
	}}))
	b := two.Run(t, chain(gitlabtest.JobDef{Name: "build", Script: []string{
		wait("a"), `echo state=$ROOST_WORKSPACE_STATE`, `echo other=$(ls -A $(cat ` + l.mark("a") + `) 2>&1)`,
		`echo found=$(cd .. && ls -A | tr '\n' ' ') name=$(basename $PWD)`, `echo here=$(ls)`, "touch " + l.mark("b"),
	}}))
	l.ends(a, gitlabtest.Success)
	l.ends(b, gitlabtest.Success)
	for _, pl := range []*gitlabtest.Pipeline{a, b} {
		found, name, _ := strings.Cut(says(pl.Job("build"))["found"], " name=")
		require.Equal(t, name+" "+name+".tmp", found)
	}
	require.Equal(t, "FRESH", says(b.Job("build"))["state"])
	require.Contains(t, says(b.Job("build"))["other"], "No such file")
	require.Equal(t, "README", says(b.Job("build"))["here"])

	// A job that is cut off leaves its token in a file.
	cut := one.Run(t, chain(gitlabtest.JobDef{Name: "cut", Script: []string{"echo running=yes", "sleep 100"}}))
	j := l.said(cut.Job("cut"), "running=yes")
	j.ForceCancel()
	var jobs []gitlabtest.JobDef
	for i, other := range []string{"1", "0"} {
		jobs = append(jobs, gitlabtest.JobDef{Name: fmt.Sprint("look", i), Stage: "look", Script: []string{
			fmt.Sprintf("touch %s%d", l.mark("in"), i), wait("in" + other), // one in each slot
			fmt.Sprintf(`echo leaked=$(grep -rl glcbt-%d- .. 2>/dev/null)`, j.ID),
			`echo own=$(grep -rl glcbt-$CI_JOB_ID- .. 2>/dev/null | wc -l)`,
		}})
	}
	look := l.run(two, chain(jobs...))
	for _, name := range []string{"look0", "look1"} {
		got := says(look.Job(name))
		require.Empty(t, got["leaked"])
		require.NotEqual(t, "0", got["own"], "the test looks for the wrong thing")
	}
	l.gl.MustBeRight(t)
}

// TestGitLabZones: pipelines of protected branches, of others, and of each merge request
// from a fork have seeds of their own.
func TestGitLabZones(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l := newLab(t, held, 1, 1)
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n"})
	fork := l.gl.AddProject(t, "somebody/app", map[string]string{"README": "forked\n"})
	sha, err := fork.Head("main")
	require.NoError(t, err)
	p.Fetch(t, fork, sha)
	p.Commit(t, "topic", map[string]string{"topic": "y\n"})
	mr := func(iid int64, source *gitlabtest.Project) gitlabtest.PipelineDef {
		return gitlabtest.PipelineDef{SHA: sha, MR: &gitlabtest.MergeRequest{IID: iid, Source: source, Branch: "main"}}
	}
	for i, c := range []struct {
		name, found string
		def         gitlabtest.PipelineDef
	}{
		{"protected", "", gitlabtest.PipelineDef{Protected: true}},
		{"branch", "", gitlabtest.PipelineDef{Ref: "topic"}},
		{"fork1", "", mr(1, fork)},
		{"fork2", "", mr(2, fork)},
		{"protected", "protected", gitlabtest.PipelineDef{Protected: true}},
		{"branch", "branch", gitlabtest.PipelineDef{}},
		{"fork1", "fork1", mr(1, fork)},
		// A variable that says otherwise changes nothing.
		{"fork2", "fork2", func() gitlabtest.PipelineDef {
			d := mr(2, fork)
			d.Variables = []gitlabtest.Variable{{Key: "CI_COMMIT_REF_PROTECTED", Value: "true"}, {Key: "CI_PIPELINE_SOURCE", Value: "push"}}
			return d
		}()},
		{"branch", "branch", mr(3, nil)},
		// Nor does one where the server says nothing: the fork is gone.
		{"fork4", "", func() gitlabtest.PipelineDef {
			d := mr(4, fork)
			d.MR.Gone = true
			d.Variables = []gitlabtest.Variable{{Key: "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", Value: fmt.Sprint(p.ID)}, {Key: "CI_RUNNER_ID", Value: "1"}}
			return d
		}()},
	} {
		c.def.Stages = []string{"build"}
		c.def.Jobs = []gitlabtest.JobDef{{Name: "build", Stage: "build", Script: []string{
			"echo found=$(cat left 2>/dev/null)", "echo state=$ROOST_WORKSPACE_STATE", "echo " + c.name + " > left",
		}}}
		got := says(l.run(p, c.def).Job("build"))
		require.Equal(t, c.found, got["found"], "pipeline %d, of %s", i, c.name)
		require.Equal(t, c.found != "", got["state"] == "FULL", "pipeline %d, of %s", i, c.name)
	}
	l.gl.MustBeRight(t)
}

// TestGitLabLeftAlone: a job that says so, or whose own settings mean something else, runs
// as on any runner, and its log says why.
func TestGitLabLeftAlone(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l := newLab(t, held, 1, 2)
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n"})
	why := map[string]string{
		"off": "it says so", "none": "its GIT_STRATEGY is none", "clone": "its GIT_STRATEGY is clone",
		"own": "it sets GIT_CLONE_PATH", "policy": "it comes from a security policy", "nofetch": "its project's git strategy is clone",
	}
	script := []string{"echo out=$(cat out 2>/dev/null)", "echo state=$ROOST_WORKSPACE_STATE", "echo here=$(ls)", "echo dir=$PWD", "echo x > junk"}
	alone := func(name, key, value string) gitlabtest.JobDef {
		d := gitlabtest.JobDef{Name: name, Stage: "alone", Script: script}
		if key != "" {
			d.Variables = public(key, value)
		}
		return d
	}
	policy, nofetch := alone("policy", "", ""), alone("nofetch", "", "")
	policy.Policy, nofetch.NoFetch = "scan", true
	both := alone("both", "GIT_STRATEGY", "none")
	both.Variables = append(both.Variables, public("ROOST_WORKSPACE", "required")...)
	both.AllowFailure, both.Script = true, []string{"touch " + l.mark("both")}
	pl := l.run(p, chain(
		gitlabtest.JobDef{Name: "build", Script: []string{"echo built > out"}},
		alone("off", "ROOST_WORKSPACE", "off"), alone("none", "GIT_STRATEGY", "none"), alone("clone", "GIT_STRATEGY", "clone"),
		alone("own", "GIT_CLONE_PATH", "$CI_BUILDS_DIR/mine"), policy, nofetch, both,
		gitlabtest.JobDef{Name: "after", Script: []string{"echo out=$(cat out)", "echo state=$ROOST_WORKSPACE_STATE", "echo here=$(ls)"}},
	))
	for name, reason := range why {
		j := pl.Job(name)
		require.Contains(t, string(j.Trace), "workspace OFF: "+reason, name)
		got := says(j)
		require.Empty(t, got["out"], name)
		require.Empty(t, got["state"], name)
		require.Equal(t, name == "none", got["here"] == "", "%s: %s", name, j.Trace)
		require.Equal(t, name == "own", strings.HasSuffix(got["dir"], "builds/mine"), name)
	}
	after := says(pl.Job("after"))
	require.Equal(t, map[string]string{"out": "built", "state": "FULL", "here": "README out"}, after)

	j := pl.Job("both")
	require.Equal(t, gitlabtest.Failed, j.Status)
	require.Equal(t, "runner_system_failure", j.FailureReason)
	require.NoFileExists(t, l.mark("both"))
	t.Logf("required, but left alone:\n%s", j.Trace)
	require.Contains(t, string(j.Trace), "its GIT_STRATEGY is none")
	require.Empty(t, mountsBelow(t, l.slots("host-a")+"/1"))
	l.gl.MustBeRight(t)
}
