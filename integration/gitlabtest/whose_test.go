package gitlabtest_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
)

// TestWhose: a job's token says whose it is while the job runs, and nothing after.
func TestWhose(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{TokenLife: time.Minute})
	pl := d.project.Run(t, gitlabtest.PipelineDef{Protected: true, Jobs: []gitlabtest.JobDef{
		{Name: "build", Stage: "build", Timeout: time.Hour}, {Name: "other", Stage: "build", Timeout: time.Hour},
	}})
	ask := func(header, token string) (int, map[string]any) {
		a := d.call("GET", "job", map[string]string{header: token}, "")
		var m map[string]any
		require.NoError(t, json.Unmarshal(a.body, &m))
		return a.status, m
	}
	for _, token := range []string{"", "x", d.runner.Token(), d.APIToken()} {
		status, _ := ask("JOB-TOKEN", token)
		require.Equal(t, 401, status, token)
	}
	p := d.must(nil)
	status, m := ask("JOB-TOKEN", p.Token)
	require.Equal(t, 200, status)
	require.EqualValues(t, p.ID, m["id"])
	require.Equal(t, "build", m["name"])
	require.Equal(t, "running", m["status"])
	require.Equal(t, p.GitInfo["ref"], m["ref"])
	of := m["pipeline"].(map[string]any)
	require.EqualValues(t, pl.ID, of["id"])
	require.Equal(t, p.JobInfo["project_id"], of["project_id"])
	require.Equal(t, p.GitInfo["sha"], of["sha"])
	require.NotContains(t, m, "protected")
	require.Equal(t, 200, d.put(p, "failed", "").status)
	status, _ = ask("JOB-TOKEN", p.Token)
	require.Equal(t, 401, status, "its job has ended")

	p = d.must(nil)
	d.clock = d.clock.Add(2 * time.Hour)
	status, _ = ask("JOB-TOKEN", p.Token)
	require.Equal(t, 401, status, "it has expired")
}
