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
	require.Empty(t, l.asked(), "nobody waits for a job")

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
	req := l.asked()[0]
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

// A host can't bring a job that waits here for another one: it would be run with a payload of
// that host's making.
func TestGitLabOfferedOfAnother(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	queueOne(t, l, b, 11)
	thief := b.newLabHost(l, "host-t", 1)
	thief.reg.Pool.Name, thief.reg.Pool.Tokens = "other", nil
	thief.register()
	r := thief.offers(100 * time.Millisecond)
	forged, err := json.Marshal(map[string]any{
		"id": 11, "token": "forged", "job_info": map[string]any{"name": "build", "project_id": 7, "pipeline_id": 100},
	})
	require.NoError(t, err)
	r.Offers[0].Job = forged
	_, err = thief.c.Claims(t.Context(), thief.id, r)
	require.ErrorIs(t, err, &api.Error{Code: api.CodeInvalid})
	c := b.newLabHost(l, "host-y", 1).takes()
	require.Contains(t, string(c.External.Payload), "canary-11")
}

// A job that a runner has already gets its workspace where it is.
func TestGitLabOffered(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 2)
	l.add(11, "build", "one")
	c := h.takes()
	h.begin(c)
	out := h.succeed(c)
	j := l.add(12, "test", "two", func(p map[string]any) { p["dependencies"] = []any{map[string]any{"id": 11}} })
	l.mu.Lock()
	l.queue = nil // its runner asked itself
	l.mu.Unlock()
	payload, err := json.Marshal(j.payload)
	require.NoError(t, err)
	r := h.offers(10 * time.Second)
	r.FreeSlots, r.Offers = 1, []api.SlotOffer{{Slot: 2, Job: payload}}
	for range 2 { // the answer to the first may have been lost
		cs, err := h.c.Claims(t.Context(), h.id, r)
		require.NoError(t, err)
		require.Len(t, cs.Claims, 1)
		c = cs.Claims[0]
		require.Equal(t, 2, c.External.Slot)
		require.Equal(t, out, c.Inputs[0].Snapshot)
		require.JSONEq(t, string(payload), string(c.External.Payload))
	}
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	_, err = h.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailAdapter, Reason: "x"})
	require.NoError(t, err)
	time.Sleep(100 * time.Millisecond)
	require.Empty(t, l.get(12).updates, "its end is the runner's to tell")

	r.Offers[0].Job = []byte(`{"id":1}`)
	_, err = h.c.Claims(t.Context(), h.id, r)
	require.ErrorContains(t, err, "slot 2")
}
