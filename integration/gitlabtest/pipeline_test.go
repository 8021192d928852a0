package gitlabtest_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
)

func (d *desk) end(p *payload, state string) { require.Equal(d.t, 200, d.put(p, state, "").status) }

func TestStages(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	pl := d.run(
		job{Name: "b1", Stage: "build"}, job{Name: "b2", Stage: "build", Retry: 1},
		job{Name: "early", Needs: gitlabtest.Needs("b1")}, job{Name: "now", Stage: "deploy", Needs: []gitlabtest.Need{}},
		job{Name: "t", Parallel: 2}, job{Name: "button", When: gitlabtest.Manual, AllowFailure: true},
		job{Name: "on fail", Stage: "deploy", When: gitlabtest.OnFailure}, job{Name: "last", Stage: "deploy"},
	)
	b1, b2 := d.must(nil), d.must(nil)
	require.Equal(t, "now", d.must(nil).JobInfo["name"])
	d.end(b1, "success")
	require.Equal(t, "early", d.must(nil).JobInfo["name"])
	d.end(b2, "failed")
	again := d.must(nil)
	require.Equal(t, "b2", again.JobInfo["name"])
	require.NotEqual(t, b2.ID, again.ID)
	d.end(again, "success")
	t1, t2 := d.must(nil), d.must(nil)
	require.Equal(t, []any{"t 1/2", "t 2/2"}, []any{t1.JobInfo["name"], t2.JobInfo["name"]})
	require.Equal(t, gitlabtest.ManualJob, pl.Job("button").Status)
	pl.Job("button").Play()
	require.Equal(t, "button", d.must(nil).JobInfo["name"])
	d.end(t1, "success")
	d.end(t2, "failed")
	for _, j := range pl.Jobs() {
		if j.Status == gitlabtest.Running {
			d.end(&payload{ID: j.ID, Token: j.Token}, "success")
		}
	}
	require.Equal(t, gitlabtest.Skipped, pl.Job("last").Status)
	require.Equal(t, "on fail", d.must(nil).JobInfo["name"])
	retried := pl.Retry("t 2/2")
	require.Equal(t, retried.ID, d.must(nil).ID)
}

// Section 2: who says what, and in which order.
func TestPayload(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	d.project.Variables = []gitlabtest.Variable{{Key: "CI_PIPELINE_ID", Value: "evil"}}
	d.run(job{Name: "a", Stage: "build"}, job{Name: "b", Stage: "build", Artifacts: gitlabtest.Archive("x")},
		job{Name: "c", Needs: []gitlabtest.Need{{Job: "a", NoArtifacts: true}, {Job: "b"}}, Cache: []gitlabtest.Cache{{Key: "k", Paths: []string{"p"}}}},
		job{Name: "d", Dependencies: []string{}}, job{Name: "e", Policy: "sec", Edit: func(m map[string]any) { m["new"] = 1 }})
	for range 2 {
		d.end(d.must(nil), "success")
	}
	c, none, e := d.must(nil), d.must(nil), d.must(nil)
	require.Len(t, c.Dependencies, 1)
	require.Equal(t, "b", c.Dependencies[0].Name)
	require.Empty(t, none.Dependencies)
	require.NotNil(t, none.raw["dependencies"])
	require.EqualValues(t, 1, e.raw["new"])
	require.Contains(t, fmt.Sprint(e.raw["policy_options"]), "sec")
	require.Contains(t, fmt.Sprint(c.raw["cache"]), "k-non_protected")
	var ids []string
	for _, v := range c.Variables {
		if v.Key == "CI_PIPELINE_ID" {
			ids = append(ids, v.Value)
		}
	}
	require.Len(t, ids, 2)
	require.Equal(t, fmt.Sprint(c.JobInfo["pipeline_id"]), ids[0])
	require.Equal(t, "evil", ids[1], "what a user set comes later")
	require.Equal(t, false, c.GitInfo["protected"])
	for _, k := range []string{"job_info", "git_info", "runner_info", "variables", "steps", "image", "services", "artifacts", "cache", "credentials", "features", "hooks"} {
		require.Contains(t, c.raw, k)
	}
}

func TestMergeRequestOfFork(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	fork := d.AddProject(t, "other/demo", map[string]string{"a": "2\n"})
	sha := fork.Commit(t, "topic", map[string]string{"b": "new\n"})
	d.project.Fetch(t, fork, sha)
	d.project.Run(t, gitlabtest.PipelineDef{SHA: sha, MR: &gitlabtest.MergeRequest{IID: 5, Source: fork, Branch: "topic"}, Jobs: []job{{Name: "a"}}})
	p := d.must(nil)
	require.Equal(t, "refs/merge-requests/5/head", p.GitInfo["ref"])
	vars := map[string]string{}
	for _, v := range p.Variables {
		vars[v.Key] = v.Value
	}
	require.Equal(t, fmt.Sprint(fork.ID), vars["CI_MERGE_REQUEST_SOURCE_PROJECT_ID"])
	require.Equal(t, "merge_request_event", vars["CI_PIPELINE_SOURCE"])
}

func TestPipelineAPI(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	pl := d.run(job{Name: "a", Stage: "build"}, job{Name: "b", Needs: gitlabtest.Needs("a")})
	path := fmt.Sprintf("projects/%d/pipelines/%d/jobs", d.project.ID, pl.ID)
	require.Equal(t, 401, d.call("GET", path, nil, "").status)
	h := map[string]string{"PRIVATE-TOKEN": d.APIToken()}
	var jobs []struct {
		ID    int64
		Name  string
		Needs []string
	}
	a := d.call("GET", path+"?per_page=1", h, "")
	require.NoError(t, json.Unmarshal(a.body, &jobs))
	require.Equal(t, []string{"a"}, jobs[0].Needs)
	require.Equal(t, "2", a.header.Get("X-Next-Page"))
	require.Equal(t, 200, d.call("GET", fmt.Sprintf("projects/group%%2Fdemo/pipelines/%d/jobs?page=2&per_page=1", pl.ID), h, "").status)
	require.Equal(t, 404, d.call("GET", fmt.Sprintf("projects/%d/pipelines/1/jobs", d.project.ID), h, "").status)
}

// TestFlaws keeps the check of a whole run honest: a server that hands out or ends a
// job twice, or loses its place in a log, is noticed.
func TestFlaws(t *testing.T) {
	for rule, want := range map[gitlabtest.Rule]string{
		gitlabtest.HandOutOnce: "handed out 2 times", gitlabtest.FinalOnce: "ended 2 times", gitlabtest.AppendAtEnd: "log of 2 bytes",
		"": "",
	} {
		d := newDesk(t, gitlabtest.Options{Break: []gitlabtest.Rule{rule}})
		d.run(job{Name: "a"})
		p := d.must(nil)
		d.request(nil)
		d.patch(p, 0, "x")
		d.patch(p, 0, "x")
		d.put(p, "success", "x")
		d.put(p, "success", "x")
		flaws := fmt.Sprint(d.Flaws())
		if want == "" {
			require.Empty(t, d.Flaws())
		} else {
			require.Contains(t, flaws, want)
		}
	}
	d := newDesk(t, gitlabtest.Options{})
	d.run(job{Name: "a"})
	require.Contains(t, fmt.Sprint(d.Flaws()), "has not ended")
	d.must(nil)
	d.clock = d.clock.Add(time.Hour)
}
