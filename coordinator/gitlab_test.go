package coordinator

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

// The way of a GitLab job: asked for when a slot waits, stored, placed, claimed with
// its payload, finished; the next one starts from what it left.
func TestGitLabJob(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 2)
	time.Sleep(50 * time.Millisecond)
	require.Empty(t, l.requests, "nobody waits for a job")

	l.add(11, "build", "one")
	c := h.takes()
	require.Equal(t, "build", c.Job.Name)
	e := c.External
	require.NotNil(t, e)
	require.Equal(t, "11", e.ID)
	require.Regexp(t, `^[0-9a-z]{26}$`, e.Name)
	require.Contains(t, c.Project, "/group/demo#7")
	require.Empty(t, e.Log)
	require.Empty(t, e.Off)
	require.Equal(t, "local", e.Durability)
	var payload map[string]any
	require.NoError(t, json.Unmarshal(e.Payload, &payload))
	require.Equal(t, "job-token-canary-11", payload["token"])
	require.Equal(t, "optional", c.Job.Workspace.Mode)
	req := l.requests[0]
	require.Equal(t, "s_host-a", req["system_id"])
	require.Equal(t, true, req["info"].(map[string]any)["features"].(map[string]any)["two_phase_job_commit"])
	require.NotContains(t, req, "session")
	h.begin(c)
	out := h.succeed(c)

	l.add(12, "test", "two", func(p map[string]any) { p["dependencies"] = []any{map[string]any{"id": 11}, map[string]any{"id": 5}} })
	c = h.takes()
	require.Equal(t, "test", c.Job.Name)
	require.Equal(t, out, c.Inputs[0].Snapshot)
	require.Equal(t, []string{"11"}, c.External.Contained)
	require.Equal(t, "dependencies", c.External.Parents)
	h.begin(c)
	h.succeed(c)

	p, err := b.user.Pipelines(t.Context(), "", 1)
	require.NoError(t, err)
	require.Equal(t, api.StatusSuccess, p[0].Status)
	require.Equal(t, 1, l.get(11).given)
	require.Zero(t, l.get(11).ends, "its end is the runner's to tell")
}
