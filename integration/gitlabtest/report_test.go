package gitlabtest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
)

// Section 1, call 7: a patch is taken at the log's end.
func TestTrace(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{UpdateInterval: 7 * time.Second})
	pl := d.run(job{Name: "a"})
	p := d.must(nil)
	a := d.patch(p, 0, "hello ")
	require.Equal(t, 202, a.status)
	require.Equal(t, "0-6", a.header.Get("Range"))
	require.Equal(t, "7", a.header.Get("X-GitLab-Trace-Update-Interval"))
	require.Equal(t, "running", a.header.Get("Job-Status"))
	a = d.patch(p, 9, "world")
	require.Equal(t, 416, a.status)
	require.Equal(t, "0-6", a.header.Get("Range"))
	require.Equal(t, 202, d.patch(p, 0, "hello ").status, "the same again")
	require.Equal(t, 416, d.patch(p, 0, "hello wor").status)
	require.Equal(t, 202, d.patch(p, 6, "world").status)
	require.Equal(t, "hello world", string(pl.Job("a").Trace))
	require.Equal(t, 400, d.call("PATCH", fmt.Sprintf("jobs/%d/trace", p.ID), map[string]string{"JOB-TOKEN": p.Token}, "x").status)
	require.Equal(t, 200, d.put(p, "success", "hello world").status)
	a = d.patch(p, 11, "!")
	require.Equal(t, 403, a.status)
	require.Equal(t, "success", a.header.Get("Job-Status"))
	d.MustBeRight(t)
	require.Equal(t, 2, pl.Job("a").Log.Gaps)
	require.Equal(t, 1, pl.Job("a").Log.Repeats)
}

// 1.4: a final report counts once.
func TestFinal(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{Flush: 2, Verify: true})
	pl := d.run(job{Name: "a"}, job{Name: "b", Stage: "deploy"})
	p := d.must(nil)
	require.Equal(t, 202, d.patch(p, 0, "log").status)
	require.Equal(t, 202, d.put(p, "success", "log").status)
	require.Equal(t, 202, d.put(p, "success", "log").status)
	require.Equal(t, 412, d.put(p, "success", "other").status)
	require.Equal(t, 202, d.patch(p, 0, "log").status, "all of it again")
	require.Equal(t, gitlabtest.Created, pl.Job("b").Status)
	a := d.put(p, "success", "log")
	require.Equal(t, 200, a.status)
	require.Equal(t, "success", a.header.Get("Job-Status"))
	require.Equal(t, gitlabtest.Pending, pl.Job("b").Status)
	a = d.put(p, "failed", "log")
	require.Equal(t, 403, a.status)
	require.Equal(t, "success", a.header.Get("Job-Status"))
	require.Len(t, pl.Job("a").Log.Finals, 1)
	require.Len(t, pl.Job("a").Log.Refused, 1)
	wrong := *p
	wrong.Token = "x"
	a = d.put(&wrong, "failed", "log")
	require.Equal(t, 403, a.status)
	require.Empty(t, a.header.Get("Job-Status"), "a wrong token learns nothing")
}

// 1.5: with and without a runner that can cancel gracefully.
func TestCancel(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	pl := d.run(job{Name: "a"}, job{Name: "b"}, job{Name: "c"})
	a, b := d.must(nil, "cancel_gracefully"), d.must(nil)
	pl.Cancel()
	require.Equal(t, gitlabtest.Canceling, pl.Job("a").Status)
	require.Equal(t, gitlabtest.Canceled, pl.Job("b").Status)
	require.Equal(t, gitlabtest.Canceled, pl.Job("c").Status)
	r := d.patch(a, 0, "x")
	require.Equal(t, 202, r.status)
	require.Equal(t, "canceling", r.header.Get("Job-Status"))
	r = d.put(b, "running", "")
	require.Equal(t, 403, r.status)
	require.Equal(t, "canceled", r.header.Get("Job-Status"))
	require.Equal(t, 200, d.put(a, "failed", "x").status)
	require.Equal(t, gitlabtest.Canceled, pl.Job("a").Status)
	d.MustBeRight(t)
}

// Section 7: an old token drops the job.
func TestTokenExpiry(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{})
	pl := d.run(job{Name: "a", Timeout: time.Hour})
	p := d.must(nil)
	d.clock = d.clock.Add(64 * time.Minute)
	require.Equal(t, 200, d.put(p, "running", "").status)
	d.clock = d.clock.Add(2 * time.Minute)
	a := d.put(p, "success", "")
	require.Equal(t, 403, a.status)
	require.Empty(t, a.header.Get("Job-Status"))
	require.Equal(t, "job_token_expired", pl.Job("a").FailureReason)
}

// Calls 9 and 10.
func TestArtifacts(t *testing.T) {
	d := newDesk(t, gitlabtest.Options{DirectDownload: true})
	d.run(job{Name: "a", Stage: "build"}, job{Name: "none", Stage: "build"}, job{Name: "b"})
	a, none := d.must(nil), d.must(nil)
	d.RedirectUploads("http://other.example")
	r := d.upload(a, "zip")
	require.Equal(t, 307, r.status)
	require.Contains(t, r.header.Get("Location"), "http://other.example/")
	d.RedirectUploads("")
	require.Equal(t, 201, d.upload(a, "zip").status)
	require.Equal(t, 200, d.put(a, "success", "").status)
	require.Equal(t, 403, d.upload(a, "late").status)
	require.Equal(t, 200, d.put(none, "success", "").status)
	b := d.must(nil)
	require.Len(t, b.Dependencies, 2, "also those without artifacts")
	require.EqualValues(t, 3, b.Dependencies[0].ArtifactsFile.Size)
	require.Nil(t, b.Dependencies[1].ArtifactsFile)
	get := func(id int64, token, query string) answer {
		return d.call("GET", fmt.Sprintf("jobs/%d/artifacts%s", id, query), map[string]string{"JOB-TOKEN": token}, "")
	}
	require.Equal(t, "zip", string(get(a.ID, b.Dependencies[0].Token, "").body))
	require.Equal(t, "zip", string(get(a.ID, b.Token, "").body), "a running job's token too")
	require.Equal(t, 302, get(a.ID, b.Token, "?direct_download=true").status)
	require.Equal(t, 404, get(none.ID, b.Token, "").status)
	require.Equal(t, 403, get(a.ID, "x", "").status)
	require.Equal(t, 401, d.call("GET", fmt.Sprintf("jobs/%d/artifacts", a.ID), nil, "").status)
}
