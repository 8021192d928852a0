package runner_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

const (
	routeRequest = "POST /api/v4/jobs/request"
	routeUpdate  = "PUT /api/v4/jobs/{id}"
	routeTrace   = "PATCH /api/v4/jobs/{id}/trace"
)

type job = gitlabtest.JobDef

// rule is a scene in which it shows whether a rule is kept.
type rule struct {
	rule  runner.Rule
	setup setup
	job   job
	vars  []gitlabtest.Variable
	// before arms mishaps. kept looks at the job after it ended, or, if early is set, when
	// its script has said "go". git says that it takes its sources.
	before     func(l *lab)
	early, git bool
	never      bool // there is nothing to wait for
	kept       func(t *testing.T, l *lab, pl *gitlabtest.Pipeline) bool
}

func final(f gitlabtest.Fault) func(*lab) {
	return func(l *lab) {
		f.Route, f.Final = routeUpdate, true
		l.Fault(f)
	}
}

func has(text string) func(*testing.T, *lab, *gitlabtest.Pipeline) bool {
	return func(_ *testing.T, _ *lab, pl *gitlabtest.Pipeline) bool {
		return strings.Contains(string(pl.Job("a").Trace), text)
	}
}

func ends(s gitlabtest.Status) func(*testing.T, *lab, *gitlabtest.Pipeline) bool {
	return func(_ *testing.T, _ *lab, pl *gitlabtest.Pipeline) bool {
		return pl.Job("a").Status == s
	}
}

func right(_ *testing.T, _ *lab, pl *gitlabtest.Pipeline) bool {
	f := pl.Job("a").Log.Finals
	return len(f) == 1 && f[0].Right
}

func idle(l *lab, d time.Duration) bool {
	return eventually(d, func() bool { return l.r.Running() == 0 })
}

func eventually(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

var slow = job{Script: []string{"for i in $(seq 80); do echo line $i; sleep 0.02; done"}}

var rules = []rule{
	{
		rule: runner.CallSix, kept: func(_ *testing.T, l *lab, _ *gitlabtest.Pipeline) bool {
			first := l.Calls(routeUpdate)[0]
			return first.State == "running" && first.Checksum == "" // and no touch
		},
	},
	{
		rule: runner.CancelingSaid, never: true,
		before: func(l *lab) {
			l.Fault(gitlabtest.Fault{Route: routeUpdate, State: "running", Header: map[string]string{"Job-Status": "canceling"}})
		},
		kept: func(_ *testing.T, l *lab, pl *gitlabtest.Pipeline) bool {
			eventually(time.Minute, func() bool { return len(l.Calls(routeUpdate)) > 0 })
			return idle(l, time.Minute) && len(pl.Job("a").Log.Finals) == 1
		},
	},
	{
		rule: runner.RetryStatus, setup: setup{config: func(c *runner.Config) { c.CheckInterval = time.Hour }},
		before: func(l *lab) { l.Fault(gitlabtest.Fault{Route: routeRequest, Status: 502, Times: 4}) }, kept: ends(gitlabtest.Success),
	},
	{rule: runner.BodyToken, kept: ends(gitlabtest.Success)},
	{
		rule: runner.JSONOnly, never: true,
		before: func(l *lab) {
			l.Fault(gitlabtest.Fault{Route: routeRequest, Times: -1, Header: map[string]string{"Content-Type": "text/plain"}})
		},
		kept: func(_ *testing.T, l *lab, _ *gitlabtest.Pipeline) bool {
			return !eventually(3*time.Second, func() bool { return len(l.Calls(routeUpdate)) > 0 })
		},
	},
	{
		rule: runner.LastUpdate, setup: setup{gitlab: gitlabtest.Options{LongPoll: time.Minute}}, kept: func(_ *testing.T, l *lab, _ *gitlabtest.Pipeline) bool {
			n := len(l.Calls(routeRequest))
			return !eventually(3*time.Second, func() bool { return len(l.Calls(routeRequest)) > n+2 })
		},
	},
	{
		rule: runner.Unhealthy, never: true, before: func(l *lab) { l.Fault(gitlabtest.Fault{Route: routeRequest, Times: -1, Status: 403}) },
		kept: func(_ *testing.T, l *lab, _ *gitlabtest.Pipeline) bool {
			// Three, and one before the mishap was there.
			return !eventually(3*time.Second, func() bool { return len(l.Calls(routeRequest)) > 4 })
		},
	},
	{
		// One patch has to come upon more than 1 MiB that is new, however slow the machine.
		rule: runner.PatchSize, setup: setup{
			entry: func(e *runner.Entry) { e.OutputLimit = 8 << 10 }, config: func(c *runner.Config) { c.Scale = 4 },
		},
		job: job{Script: []string{"head -c 3000000 /dev/zero | tr '\\0' x"}}, kept: func(_ *testing.T, l *lab, _ *gitlabtest.Pipeline) bool {
			for _, c := range l.Calls(routeTrace) {
				var from, to int
				fmt.Sscanf(c.Header.Get("Content-Range"), "%d-%d", &from, &to)
				if to-from+1 > 1<<20 {
					return false
				}
			}
			return true
		},
	},
	{rule: runner.ResendAt, job: slow, before: func(l *lab) { l.Fault(gitlabtest.Fault{Route: routeTrace, LoseReply: true, Nth: 8, Times: 3}) }, kept: right},
	{
		rule: runner.ForcedTouch, job: job{Script: []string{"sleep 4"}}, kept: func(_ *testing.T, _ *lab, pl *gitlabtest.Pipeline) bool {
			return pl.Job("a").Log.Touches > 1
		},
	},
	{rule: runner.AllTrace, kept: right},
	{rule: runner.FinalRetry, before: final(gitlabtest.Fault{Status: 400, Times: 3}), kept: ends(gitlabtest.Success)},
	{rule: runner.FinalOnce, kept: func(_ *testing.T, l *lab, pl *gitlabtest.Pipeline) bool {
		return idle(l, time.Minute) && len(pl.Job("a").Log.Refused) == 0
	}},
	{rule: runner.Resend412, before: final(gitlabtest.Fault{Status: 412}), kept: ends(gitlabtest.Success)},
	{rule: runner.Wait202, setup: setup{gitlab: gitlabtest.Options{Flush: 2}}, kept: ends(gitlabtest.Success)},
	{
		rule: runner.Quiet, before: final(gitlabtest.Fault{Delay: 900 * time.Millisecond}), kept: func(_ *testing.T, l *lab, pl *gitlabtest.Pipeline) bool {
			calls := l.Calls(routeUpdate)
			for _, f := range calls {
				for _, c := range calls {
					if f.State == "success" && c.State == "running" && c.Start.After(f.Start) {
						return false
					}
				}
			}
			return pl.Status() == gitlabtest.Success
		},
	},
	{
		rule: runner.AbortOn403, job: job{Script: []string{"echo go; sleep 40"}}, early: true, kept: func(_ *testing.T, l *lab, pl *gitlabtest.Pipeline) bool {
			pl.Job("a").ExpireToken()
			return idle(l, 15*time.Second)
		},
	},
	{
		rule: runner.CancelGraces, job: job{Script: []string{"echo go; sleep 20"}, AfterScript: []string{"echo after $CI_JOB_STATUS"}}, early: true,
		kept: func(t *testing.T, l *lab, pl *gitlabtest.Pipeline) bool {
			pl.Job("a").Cancel()
			pl.MustWait(t, gitlabtest.Canceled, time.Minute)
			return has("after canceled\n")(t, l, pl)
		},
	},
	{
		rule: runner.AbortFinal, job: job{Script: []string{"echo go; sleep 20"}}, early: true, kept: func(_ *testing.T, l *lab, pl *gitlabtest.Pipeline) bool {
			pl.Job("a").ForceCancel()
			return idle(l, time.Minute) && len(pl.Job("a").Log.Refused) == 1
		},
	},
	{
		rule: runner.InsideBuilds, setup: setup{entry: func(e *runner.Entry) { e.CustomBuildDir = yes() }},
		vars: []gitlabtest.Variable{{Key: "GIT_CLONE_PATH", Value: "$CI_BUILDS_DIR/../elsewhere"}},
		kept: func(t *testing.T, l *lab, pl *gitlabtest.Pipeline) bool {
			return pl.Job("a").FailureReason == "script_failure" && has("has to be within")(t, l, pl)
		},
	},
	{
		rule: runner.CustomDir, vars: []gitlabtest.Variable{{Key: "GIT_CLONE_PATH", Value: "$CI_BUILDS_DIR/x"}}, kept: has("is not allowed"),
	},
	{
		rule: runner.LastWins, job: job{Script: []string{"echo X=$X."}}, vars: []gitlabtest.Variable{{Key: "X", Value: "1"}, {Key: "X", Value: "2"}},
		kept: has("X=2."),
	},
	{
		rule: runner.RawVariables, job: job{Script: []string{`echo "$X $Y"`}},
		vars: []gitlabtest.Variable{{Key: "Z", Value: "z"}, {Key: "X", Value: "x$Z", Raw: true}, {Key: "Y", Value: "y${Z}"}}, kept: has("x$Z yz"),
	},
	{
		rule: runner.CheckoutForce, git: true, job: job{Script: []string{"cat README.md; echo changed > README.md"}, Retry: 0},
		kept: func(t *testing.T, l *lab, _ *gitlabtest.Pipeline) bool {
			again := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{{Name: "a", Script: []string{"cat README.md"}}}})
			again.MustWait(t, gitlabtest.Success, time.Minute)
			return has("hello\n")(t, l, again)
		},
	},
	{rule: runner.TmpBeside, job: job{Script: []string{`test -d "$CI_PROJECT_DIR.tmp" && echo beside`}}, kept: has("\nbeside\n")},
	{
		rule: runner.CleanupFirst, setup: setup{entry: func(e *runner.Entry) {
			e.Executor, e.Custom = "custom", &runner.Custom{
				RunExec: "bash", CleanupExec: "bash", CleanupArgs: []string{"-c", "sleep 0.2; echo done > " + e.CacheDir + "/cleaned"},
			}
		}},
		before: func(l *lab) {
			l.Fault(gitlabtest.Fault{Route: routeUpdate, Final: true, Do: func() {
				if _, err := os.Stat(l.entry.CacheDir + "/cleaned"); err == nil {
					l.seen.Store(true)
				}
			}})
		},
		kept: func(_ *testing.T, l *lab, _ *gitlabtest.Pipeline) bool { return l.seen.Load() },
	},
	{
		rule: runner.JobTimeout, job: job{Script: []string{"sleep 20"}, Timeout: time.Second}, kept: func(_ *testing.T, _ *lab, pl *gitlabtest.Pipeline) bool {
			return pl.Job("a").FailureReason == "job_execution_timeout"
		},
	},
}

func yes() *bool {
	b := true
	return &b
}

// tries is how often a broken rule may not show: that is chance, on a machine that has other
// work. One that never shows is no rule that a test can hold to.
const tries = 5

// TestRules plays each scene twice: with the rule, which must show, and without it,
// which must show too.
func TestRules(t *testing.T) {
	for _, r := range rules {
		t.Run(strings.ReplaceAll(string(r.rule), " ", "_"), func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			require.True(t, r.play(t, false, 3*time.Minute), "the rule is not kept")
			limit := 2*time.Second + 2*time.Since(begin) // without it, some jobs never end
			for n := 1; r.play(t, true, limit); n++ {
				require.Less(t, n, tries, "breaking the rule doesn't show")
			}
		})
	}
}

func (r rule) play(t *testing.T, broken bool, limit time.Duration) bool {
	s := r.setup
	config := s.config
	s.config = func(c *runner.Config) {
		if config != nil {
			config(c)
		}
		if broken {
			c.Break = []runner.Rule{r.rule}
		}
	}
	s.before = r.before
	l := newLab(t, s)
	defer l.stop()
	j := r.job
	j.Name, j.Variables = "a", r.vars
	if !r.git {
		j.Variables = append(j.Variables, gitlabtest.Variable{Key: "GIT_STRATEGY", Value: "none"})
	}
	if j.Script == nil {
		j.Script = []string{"echo one; sleep 0.1; echo two"}
	}
	pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{j}})
	switch {
	case r.never:
	case r.early:
		eventually(limit, func() bool { return has("\ngo\n")(t, l, pl) })
	default:
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, _ = pl.Wait(ctx) // kept says what was to come of it
	}
	return r.kept(t, l, pl)
}
