package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
)

// stormJobs is how many jobs the storm has: TEST_GITLAB_JOBS=200 for all of it.
func stormJobs(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("TEST_GITLAB_JOBS"))
	if os.Getenv("TEST_GITLAB_JOBS") == "" {
		return 30
	}
	require.NoError(t, err, "TEST_GITLAB_JOBS")
	return n
}

// Agents, plugins and the coordinator are killed, and GitLab fails, all at random: every
// job ends in GitLab exactly once, no byte of a log is lost or doubled, none runs twice,
// and whoever had a job before it finds what that one left.
func TestGitLabStorm(t *testing.T) {
	t.Parallel()
	const perPipeline = 5
	jobs := stormJobs(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d jobs", seed, jobs)
	l := newLab(t, gitlabtest.Options{TwoPhase: true, AckExpiry: 20 * time.Second, LongPoll: time.Second}, 3, 2)
	p := l.gl.AddProject(t, "group/storm", map[string]string{"README.md": "hello\n", ".gitignore": "out/\n"})
	ran := filepath.Join(l.dir, "ran")
	var pls []*gitlabtest.Pipeline
	for range (jobs + perPipeline - 1) / perPipeline {
		pls = append(pls, p.Run(t, stormPipeline(ran)))
	}
	stop := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() { l.storm(rand.New(rand.NewPCG(seed, 1)), stop) })
	l.stormFaults(seed)
	deadline := time.Now().Add(time.Duration(jobs)*3*time.Second + 90*time.Second)
	for _, pl := range pls {
		for !pl.Status().Ended() && time.Now().Before(deadline) {
			time.Sleep(100 * time.Millisecond)
		}
	}
	close(stop)
	chaos.Wait()
	l.gl.NoFaults()
	for _, pl := range pls { // what was on its way in the end
		for !pl.Status().Ended() && time.Now().Before(deadline.Add(time.Minute)) {
			time.Sleep(100 * time.Millisecond)
		}
	}
	l.stormVerdict(pls, gitlabtest.Ran(t, ran))
}

// stormPipeline makes jobs that stand on each other: a build, three at once, a join.
func stormPipeline(ran string) gitlabtest.PipelineDef {
	begin := []string{gitlabtest.RanMark(ran), `echo "state=$ROOST_WORKSPACE_STATE"`, `mkdir -p out`}
	make := func(more ...string) []string {
		return append(slices.Clone(begin), append(more, `seq 1 2000`, `sleep 0.$((RANDOM % 5))`)...)
	}
	def := gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{
		{Name: "build", Stage: "build", Script: make(`echo "$CI_PIPELINE_ID" > out/build`)},
	}}
	for i := range 3 {
		name := fmt.Sprintf("test%d", i)
		def.Jobs = append(def.Jobs, gitlabtest.JobDef{Name: name, Stage: "test", Script: make(
			`test "$ROOST_WORKSPACE_STATE" != FULL || test "$(cat out/build)" = "$CI_PIPELINE_ID"`, `echo x > out/`+name)})
	}
	def.Jobs = append(def.Jobs, gitlabtest.JobDef{Name: "join", Stage: "deploy", Script: make(
		`test "$ROOST_WORKSPACE_STATE" != FULL || ls out/test0 out/test1 out/test2`)})
	return def
}

// storm kills until it is told to stop.
func (l *lab) storm(rnd *rand.Rand, stop <-chan struct{}) {
	names := slices.Sorted(maps.Keys(l.agents))
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(500+rnd.IntN(1500)) * time.Millisecond):
		}
		name := names[rnd.IntN(len(names))]
		switch rnd.IntN(4) {
		case 0:
			l.coord.kill()
		case 1:
			l.agents[name].kill()
		default:
			l.killPlugin(name)
		}
	}
}

// killPlugin kills the child of an agent that is its plugin.
func (l *lab) killPlugin(host string) {
	a := l.agents[host]
	a.mu.Lock()
	pid := a.cmd.Process.Pid
	a.mu.Unlock()
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range tasks {
		b, _ := os.ReadFile(f)
		children = append(children, b...)
	}
	for _, c := range strings.Fields(string(children)) {
		line, _ := os.ReadFile("/proc/" + c + "/cmdline")
		if n, err := strconv.Atoi(c); err == nil && strings.Contains(string(line), "plugin\x00gitlab") {
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

// stormFaults has the runner API fail by chance.
func (l *lab) stormFaults(seed uint64) {
	for i, route := range []string{"POST /api/v4/jobs/request", "PUT /api/v4/jobs/{id}", "PATCH /api/v4/jobs/{id}/trace"} {
		for k, f := range []gitlabtest.Fault{
			{Chance: 0.03, Status: 502},
			{Chance: 0.03, LoseReply: true},
			{Chance: 0.03, Reset: true},
			{Chance: 0.03, After: 300 * time.Millisecond},
			{Chance: 0.02, Status: 429, Header: map[string]string{"Retry-After": "1"}},
		} {
			// A runner goes on when its first word of a job is refused, but in two-phase
			// commit GitLab does not know then that the job runs, and git is denied.
			f.Final = strings.HasPrefix(route, "PUT") && (f.Status != 0 || f.Reset)
			f.Route, f.Times, f.Rand = route, -1, rand.New(rand.NewPCG(seed, uint64(10*i+k)+2))
			l.gl.Fault(f)
		}
	}
}

// stormVerdict checks all that must be so, whatever happened.
func (l *lab) stormVerdict(pls []*gitlabtest.Pipeline, ran map[string]int) {
	t := l.t
	l.gl.MustBeRight(t)
	ended := map[string]int{}
	for _, j := range l.gl.Jobs() {
		id := strconv.FormatInt(j.ID, 10)
		require.LessOrEqual(t, ran[id], 1, "job %d ran twice", j.ID)
		if j.Status == gitlabtest.Success {
			require.Equal(t, 1, ran[id], "job %d is green and did not run", j.ID)
		}
		if j.Status == gitlabtest.Failed {
			require.NotEqual(t, "script_failure", j.FailureReason, "a script saw another workspace than its parents':\n%s", j.Trace)
		}
		ended[string(j.Status)+" "+j.FailureReason]++
	}
	t.Logf("%d pipelines; jobs: %v; kills: coordinator %d, agents %d", len(pls), ended, l.coord.killed(), func() (n int) {
		for _, a := range l.agents {
			n += a.killed()
		}
		return n
	}())
	require.NotZero(t, ended["success "])
}
