package gitlabtest_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
)

type job = gitlabtest.JobDef

// Section 1, call 1.
func TestVerify(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	token := d.runner.Token()
	body := `{"token":"` + token + `"}`
	a := d.call("POST", "runners/verify", map[string]string{"RUNNER-TOKEN": token}, body)
	require.Equal(t, 200, a.status)
	require.Contains(t, string(a.body), `"token_expires_at":null`)
	require.Equal(t, 403, d.call("POST", "runners/verify", map[string]string{"RUNNER-TOKEN": "other"}, body).status, "both tokens count")
	require.Equal(t, 403, d.call("POST", "runners/verify", nil, `{"token":"other"}`).status)
	require.Equal(t, 501, d.call("GET", "runners/router/discovery", map[string]string{"RUNNER-TOKEN": token}, "").status)
	a = d.call("POST", "runners/reset_authentication_token", nil, body)
	require.Equal(t, 201, a.status)
	require.NotEqual(t, token, d.runner.Token())
	require.Equal(t, 403, d.call("POST", "runners/verify", nil, body).status, "the old token is gone")
}

// 1.1: the queue's value.
func TestLastUpdate(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	_, a := d.request(nil)
	require.Equal(t, 204, a.status)
	value := a.header.Get("X-GitLab-Last-Update")
	require.NotEmpty(t, value)
	_, a = d.request(map[string]any{"last_update": value})
	require.Equal(t, 204, a.status)
	d.run(job{Name: "a"})
	require.Equal(t, "a", d.must(map[string]any{"last_update": value}).JobInfo["name"])
}

// 1.1: a request that knows the value is held; a change ends it with 204.
func TestLongPoll(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{LongPoll: 300 * time.Millisecond})
	_, a := d.request(nil)
	value := a.header.Get("X-GitLab-Last-Update")
	begin := time.Now()
	_, a = d.request(map[string]any{"last_update": value})
	require.Equal(t, 204, a.status)
	require.GreaterOrEqual(t, time.Since(begin), 300*time.Millisecond)
	d = newDesk(t, gitlabtest.Options{LongPoll: time.Minute})
	_, a = d.request(nil)
	value = a.header.Get("X-GitLab-Last-Update")
	begin = time.Now()
	time.AfterFunc(30*time.Millisecond, func() { d.run(job{Name: "a"}) })
	_, a = d.request(map[string]any{"last_update": value})
	require.Equal(t, 204, a.status, "the runner must ask again")
	require.Less(t, time.Since(begin), 30*time.Second)
	d.must(nil)
}

// 1.0: features decide; tags and protected refs too.
func TestWhoGetsWhat(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	pl := d.run(job{Name: "a", Requires: []string{"image"}}, job{Name: "b", Tags: []string{"big"}}, job{Name: "c"})
	require.Equal(t, "c", d.must(nil, "artifacts").JobInfo["name"])
	require.Equal(t, "runner_unsupported", pl.Job("a").FailureReason)
	_, a := d.request(nil)
	require.Equal(t, 204, a.status)
	d.runner = d.AddRunner(gitlabtest.RunnerDef{Tags: []string{"big"}, Protected: true})
	_, a = d.request(nil)
	require.Equal(t, 204, a.status, "not a protected ref")
	d.runner = d.AddRunner(gitlabtest.RunnerDef{Tags: []string{"big", "x"}, TaggedOnly: true})
	require.Equal(t, "b", d.must(nil).JobInfo["name"])
	d.runner.Pause(true)
	d.run(job{Name: "d", Tags: []string{"big"}})
	_, a = d.request(nil)
	require.Equal(t, 204, a.status)
}

// 1.2 with the flag: pending until the holder of the token says that it runs.
func TestTwoPhase(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{TwoPhase: true})
	pl := d.run(job{Name: "a"})
	p := d.must(nil, "two_phase_job_commit")
	require.Equal(t, gitlabtest.Pending, pl.Job("a").Status)
	_, a := d.request(nil, "two_phase_job_commit")
	require.Equal(t, 204, a.status, "nobody else gets it")
	a = d.patch(p, 0, "hello")
	require.Equal(t, 403, a.status, "it is not running yet")
	require.Equal(t, "pending", a.header.Get("Job-Status"))
	for range 3 { // kept alive beyond the two minutes
		d.clock = d.clock.Add(90 * time.Second)
		require.Equal(t, 200, d.put(p, "pending", "").status)
	}
	require.Equal(t, 400, d.put(p, "success", "").status)
	require.Equal(t, 200, d.put(p, "running", "").status)
	require.Equal(t, gitlabtest.Running, pl.Job("a").Status)
	require.Equal(t, "s_1", pl.Job("a").Manager)
	require.Equal(t, 400, d.put(p, "pending", "").status)
	require.Equal(t, 200, d.put(p, "success", "").status)
	require.Equal(t, 1, pl.Job("a").Log.Acked)
	d.MustBeRight(t)
}

// 1.2: two minutes without a word.
func TestAckExpires(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{TwoPhase: true})
	pl := d.run(job{Name: "a"})
	p := d.must(nil, "two_phase_job_commit")
	d.clock = d.clock.Add(121 * time.Second)
	a := d.put(p, "running", "")
	require.Equal(t, 403, a.status)
	require.Equal(t, "failed", a.header.Get("Job-Status"))
	again := d.must(nil)
	require.NotEqual(t, p.ID, again.ID)
	require.Equal(t, "runner_provisioning_timeout", d.Job(p.ID).FailureReason)
	require.Equal(t, gitlabtest.Running, pl.Job("a").Status, "without the feature it runs at once")
}

// 1.1: 409 is a mishap like others.
func TestFaults(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	pl := d.run(job{Name: "a"})
	route := "POST /api/v4/jobs/request"
	d.Fault(gitlabtest.Fault{Route: route, Status: 409})
	d.Fault(gitlabtest.Fault{Route: route, Status: 429, Header: map[string]string{"Retry-After": "60"}})
	f := d.Fault(gitlabtest.Fault{Route: route, Reset: true})
	lost := d.Fault(gitlabtest.Fault{Route: route, LoseReply: true})
	_, a := d.request(nil)
	require.Equal(t, 409, a.status)
	_, a = d.request(nil)
	require.Equal(t, 429, a.status)
	require.Equal(t, "60", a.header.Get("Retry-After"))
	_, a = d.request(nil)
	require.Equal(t, -1, a.status)
	require.Equal(t, 1, f.Hits())
	require.Equal(t, gitlabtest.Pending, pl.Job("a").Status)
	_, a = d.request(nil)
	require.Equal(t, -1, a.status)
	require.Equal(t, 1, lost.Hits())
	require.Equal(t, gitlabtest.Running, pl.Job("a").Status, "the answer was lost, not its effect")
	require.Len(t, d.Calls(route), 4)
	d.Down()
	_, a = d.request(nil)
	require.Equal(t, -1, a.status)
	require.NoError(t, d.Up())
	_, a = d.request(nil)
	require.Equal(t, http.StatusNoContent, a.status)
}
