package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// A job that is canceled at its runner's first word is canceled for the coordinator
// too, and its slot takes the next job: also where the runner drops it without a word, as
// all do when it is canceled at once, and those of 18 always.
func TestGitLabCanceledAtFirstWord(t *testing.T) {
	for name, c := range map[string]struct {
		cancel func(gitlabtest.Job)
		broken []runner.Rule
	}{
		"at once":    {cancel: gitlabtest.Job.ForceCancel},
		"with grace": {cancel: gitlabtest.Job.Cancel},
		"by an 18th": {cancel: gitlabtest.Job.Cancel, broken: []runner.Rule{runner.CancelingSaid}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLabWithoutHosts(t, gitlabtest.Options{})
			l.edit = func(_ string, _ int, e *runner.Entry) { e.Break = c.broken }
			l.addHost("host-a", 1)
			p := l.gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
			var pl *gitlabtest.Pipeline
			ready := make(chan struct{})
			l.gl.Fault(gitlabtest.Fault{Route: "PUT /api/v4/jobs/{id}", State: "running", Do: func() {
				<-ready
				c.cancel(pl.Job("a"))
			}})
			pl = p.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{{Name: "a", Script: []string{"true"}}}})
			close(ready)
			next := p.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{{Name: "b", Script: []string{"true"}}}})
			begin := time.Now()
			pl.MustWait(t, gitlabtest.Canceled, time.Minute)
			next.MustWait(t, gitlabtest.Success, time.Minute)
			t.Logf("all had ended after %s", time.Since(begin))
			l.gl.MustBeRight(t)
			// An agent that the coordinator does not answer in time lets GitLab know first.
			require.Eventually(t, func() bool { return newest(t, l.record(pl), "a").Status.Ended() }, time.Minute, 20*time.Millisecond)
			rec := newest(t, l.record(pl), "a")
			require.Equal(t, api.StatusCanceled, rec.Status, rec.Reason)
		})
	}
}
