package runner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// 1.0, call 6: what its answer does to the job.
func TestCallSix(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault gitlabtest.Fault
		ran   bool
		want  gitlabtest.Status
	}{
		"409 runs anyway":        {gitlabtest.Fault{Status: 409}, true, gitlabtest.Success},
		"unreachable runs":       {gitlabtest.Fault{Reset: true}, true, gitlabtest.Success},
		"404 drops it":           {gitlabtest.Fault{Status: 404}, false, gitlabtest.Running},
		"403 drops it":           {gitlabtest.Fault{Status: 403}, false, gitlabtest.Running},
		"canceled drops it":      {gitlabtest.Fault{Header: map[string]string{"Job-Status": "canceled"}}, false, gitlabtest.Running},
		"canceling is the cause": {gitlabtest.Fault{Header: map[string]string{"Job-Status": "canceling"}}, false, gitlabtest.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, setup{before: func(l *lab) {
				c.fault.Route, c.fault.State = routeUpdate, "running"
				l.Fault(c.fault)
			}})
			pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{
				{Name: "a", Script: []string{"echo ran"}, Variables: []gitlabtest.Variable{{Key: "GIT_STRATEGY", Value: "none"}}},
			}})
			require.True(t, eventually(time.Minute, func() bool { return len(l.Calls(routeUpdate)) > 0 }))
			require.True(t, eventually(time.Minute, func() bool { return l.r.Running() == 0 }))
			j := pl.Job("a")
			require.Equal(t, c.want, j.Status)
			require.Equal(t, c.ran, said(j, "\nran\n"))
			if c.want == gitlabtest.Running {
				require.Len(t, l.Calls(routeUpdate), 1, "not a word more")
			}
		})
	}
}

// 1.0: an error of the transport is not tried again within a call.
func TestTransportError(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{
		config: func(c *runner.Config) { c.CheckInterval = time.Hour },
		before: func(l *lab) { l.Fault(gitlabtest.Fault{Route: routeRequest, Reset: true, Times: -1}) },
	})
	require.True(t, eventually(time.Minute, func() bool { return len(l.Calls(routeRequest)) > 0 }))
	time.Sleep(300 * time.Millisecond)
	require.Len(t, l.Calls(routeRequest), 1)
}

// 1.0, call 7: after 404 nothing more is sent of the log, and the job is reported all
// the same.
func TestTraceGone(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{before: func(l *lab) { l.Fault(gitlabtest.Fault{Route: routeTrace, Status: 404, Times: -1}) }})
	j := l.one(t, job{}, gitlabtest.Success, "GIT_STRATEGY", "none")
	require.False(t, j.Log.Finals[0].Right)
	require.Contains(t, l.Flaws()[0], "log of 0 bytes")
}

// 1.5: the interval is the one that the server's answers name.
func TestInterval(t *testing.T) {
	t.Parallel()
	patches := func(interval time.Duration) int {
		l := newLab(t, setup{gitlab: gitlabtest.Options{UpdateInterval: interval}})
		l.one(t, job{Script: []string{"for i in $(seq 50); do echo $i; sleep 0.02; done"}}, gitlabtest.Success, "GIT_STRATEGY", "none")
		return len(l.Calls(routeTrace))
	}
	require.Greater(t, patches(time.Second), 2*patches(60*time.Second))
}

// 1.1: a request that is held is given up by SIGTERM, and the job that came with its
// answer is lost to the runner.
func TestHeldRequestInterrupted(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{gitlab: gitlabtest.Options{LongPoll: time.Minute}})
	require.True(t, eventually(time.Minute, func() bool { return len(l.Calls(routeRequest)) > 0 })) // the next one is held
	time.Sleep(100 * time.Millisecond)
	begin := time.Now()
	l.stop()
	require.Less(t, time.Since(begin), 20*time.Second)
}
