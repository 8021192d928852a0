package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// ruleScene is a pipeline through Roost in which it shows whether GitLab, or the
// runner, keeps a rule: what our tests are made of tells right from wrong.
type ruleScene struct {
	gitlab gitlabtest.Rule
	runner runner.Rule
	job    gitlabtest.JobDef
	fault  *gitlabtest.Fault
	// begun, if set, is called when the script has said "go".
	begun func(l *lab, pl *gitlabtest.Pipeline)
	// ends says that untilSeen is over then, and not only when right was asked.
	ends bool
	// right says whether all is as it must be, when the job ended or took too long.
	right func(t *testing.T, l *lab, p *gitlabtest.Project, pl *gitlabtest.Pipeline) bool
}

func flawless(_ *testing.T, l *lab, _ *gitlabtest.Project, pl *gitlabtest.Pipeline) bool {
	return pl.Status() == gitlabtest.Success && len(l.gl.Flaws()) == 0
}

// untilSeen is a line of a script that takes until it was seen whether all is right.
const untilSeen = `until test -e "$GO"; do sleep 0.1; done`

func cancels(_ *lab, pl *gitlabtest.Pipeline) { pl.Job("a").Cancel() }

var ruleScenes = []ruleScene{
	{
		gitlab: gitlabtest.HandOutOnce, job: gitlabtest.JobDef{Script: []string{"echo go", untilSeen}}, right: flawless, ends: true,
		begun: func(_ *lab, pl *gitlabtest.Pipeline) { // it is asked for jobs, and has that one to give
			for end := time.Now().Add(3 * time.Second); len(pl.Job("a").Log.Assigned) < 2 && time.Now().Before(end); {
				time.Sleep(20 * time.Millisecond)
			}
		},
	},
	{
		gitlab: gitlabtest.FinalOnce,
		fault:  &gitlabtest.Fault{Route: "PUT /api/v4/jobs/{id}", Final: true, LoseReply: true},
		right: func(t *testing.T, l *lab, p *gitlabtest.Project, pl *gitlabtest.Pipeline) bool {
			require.Eventually(t, func() bool { // it is sent again
				log := pl.Job("a").Log
				return len(log.Finals)+len(log.Refused) > 1
			}, time.Minute, 20*time.Millisecond)
			return flawless(t, l, p, pl)
		},
	},
	{
		gitlab: gitlabtest.AppendAtEnd, right: flawless, job: gitlabtest.JobDef{Script: []string{"for i in $(seq 100); do echo $i; sleep 0.02; done"}},
		fault: &gitlabtest.Fault{Route: "PATCH /api/v4/jobs/{id}/trace", LoseReply: true, Nth: 3},
	},
	{
		gitlab: gitlabtest.FeaturesDecide, job: gitlabtest.JobDef{Requires: []string{"image"}},
		right: func(_ *testing.T, _ *lab, _ *gitlabtest.Project, pl *gitlabtest.Pipeline) bool {
			return pl.Job("a").FailureReason == "runner_unsupported"
		},
	},
	{
		gitlab: gitlabtest.StatusHeader, job: gitlabtest.JobDef{Script: []string{"echo go", untilSeen}, AfterScript: []string{"echo after"}},
		begun: cancels,
		right: func(_ *testing.T, _ *lab, _ *gitlabtest.Project, pl *gitlabtest.Pipeline) bool {
			j := pl.Job("a")
			return j.Status == gitlabtest.Canceled && strings.Contains(string(j.Trace), "\nafter\n")
		},
	},
	{
		gitlab: gitlabtest.TokenExpiry, job: gitlabtest.JobDef{Script: []string{"echo go", untilSeen}},
		begun: func(_ *lab, pl *gitlabtest.Pipeline) { pl.Job("a").ExpireToken() },
		right: func(_ *testing.T, _ *lab, _ *gitlabtest.Project, pl *gitlabtest.Pipeline) bool {
			return pl.Job("a").FailureReason == "job_token_expired"
		},
	},
	{runner: runner.AllTrace, right: flawless},
	{
		runner: runner.CheckoutForce, job: gitlabtest.JobDef{Script: []string{"echo changed > README.md"}},
		right: func(t *testing.T, _ *lab, p *gitlabtest.Project, _ *gitlabtest.Pipeline) bool {
			next := p.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{{Name: "a", Script: []string{"cat README.md"}}}})
			next.MustWait(t, gitlabtest.Success, 3*time.Minute)
			return strings.Contains(string(next.Job("a").Trace), "\nhello\n")
		},
	},
	{
		runner: runner.CancelGraces, job: gitlabtest.JobDef{Script: []string{"echo go", untilSeen}, AfterScript: []string{"echo after"}},
		begun: cancels,
		right: func(_ *testing.T, _ *lab, _ *gitlabtest.Project, pl *gitlabtest.Pipeline) bool {
			return strings.Contains(string(pl.Job("a").Trace), "\nafter\n")
		},
	},
}

// ruleTries is how often a broken rule may not show: that is chance, on a machine that has
// other work.
const ruleTries = 4

// TestGitLabRules plays each scene with the rule and without it: the first must be
// right and the second must not, or a test here could not fail.
func TestGitLabRules(t *testing.T) {
	t.Parallel()
	for _, s := range ruleScenes {
		t.Run(strings.ReplaceAll(string(s.gitlab)+string(s.runner), " ", "_"), func(t *testing.T) {
			begin := time.Now()
			require.True(t, s.play(t, false, 3*time.Minute), "with the rule")
			limit := 3*time.Second + 2*time.Since(begin)
			for n := 1; s.play(t, true, limit); n++ {
				require.Less(t, n, ruleTries, "without the rule")
			}
		})
	}
}

func (s ruleScene) play(t *testing.T, broken bool, limit time.Duration) (right bool) {
	t.Run(map[bool]string{false: "kept", true: "broken"}[broken], func(t *testing.T) {
		o := gitlabtest.Options{}
		if broken && s.gitlab != "" {
			o.Break = []gitlabtest.Rule{s.gitlab}
		}
		l := newLabWithoutHosts(t, o)
		l.edit = func(_ string, _ int, e *runner.Entry) {
			if broken && s.runner != "" {
				e.Break = []runner.Rule{s.runner}
			}
		}
		if s.fault != nil {
			l.gl.Fault(*s.fault)
		}
		l.addHost("host-a", 2)
		p := l.gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
		j := s.job
		j.Name = "a"
		if j.Script == nil {
			j.Script = []string{"echo one", "sleep 0.2", "echo two"}
		}
		release := filepath.Join(l.dir, "go")
		j.Script = append([]string{gitlabtest.RanMark(filepath.Join(l.dir, "ran")), "GO='" + release + "'"}, j.Script...)
		pl := p.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{j}})
		if s.begun != nil {
			require.Eventually(t, func() bool { return strings.Contains(string(pl.Job("a").Trace), "\ngo\n") }, time.Minute, 20*time.Millisecond)
			s.begun(l, pl)
			if s.ends {
				require.NoError(t, os.WriteFile(release, nil, 0o600))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, _ = pl.Wait(ctx) // right says what was to come of it
		right = s.right(t, l, p, pl)
		t.Logf("%v: %v\n%s", right, l.gl.Flaws(), pl.Job("a").Trace)
		require.NoError(t, os.WriteFile(release, nil, 0o600))
		pl.Cancel() // what never ended
		require.Eventually(t, func() bool { return !l.mounted() }, 2*time.Minute, 50*time.Millisecond, "a workspace stays mounted")
	})
	return right
}

// mounted says whether any slot has a workspace.
func (l *lab) mounted() bool {
	b, err := os.ReadFile("/proc/self/mounts")
	require.NoError(l.t, err)
	for name := range l.hosts {
		if strings.Contains(string(b), " "+l.slots(name)+"/") {
			return true
		}
	}
	return false
}
