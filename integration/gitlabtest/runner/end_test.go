package runner_test

import (
	"context"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
)

// lab is a GitLab with one project, one runner token and one runner.
type lab struct {
	*gitlabtest.GitLab
	project *gitlabtest.Project
	token   *gitlabtest.Runner
	entry   runner.Entry
	r       *runner.Runner
	seen    atomic.Bool // for a test's own use
	stop    func()      // may be called again
}

type setup struct {
	gitlab gitlabtest.Options
	entry  func(*runner.Entry)
	config func(*runner.Config)
	before func(*lab) // the runner starts
}

func newLab(t *testing.T, s setup) *lab {
	t.Helper()
	testenv.Require(t, testenv.Bash, testenv.Git)
	if s.gitlab.UpdateInterval == 0 {
		s.gitlab.UpdateInterval = 3 * time.Second
	}
	l := &lab{GitLab: gitlabtest.New(t, s.gitlab)}
	l.project = l.AddProject(t, "group/demo", map[string]string{"README.md": "hello\n", ".gitignore": "out/\n"})
	l.token = l.AddRunner(gitlabtest.RunnerDef{})
	l.entry = runner.Entry{
		Name: "slot1", URL: l.URL(), Token: l.token.Token(), Executor: "shell", BuildsDir: t.TempDir(), CacheDir: t.TempDir(), Limit: 1,
		GracefulKill: 100 * time.Second,
	}
	if s.entry != nil {
		s.entry(&l.entry)
	}
	c := runner.Config{Entries: []runner.Entry{l.entry}, Scale: 100, Log: testWriter(t)}
	if s.config != nil {
		s.config(&c)
	}
	if s.before != nil {
		s.before(l)
	}
	r, err := runner.New(c)
	require.NoError(t, err)
	l.r = r
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	l.stop = func() {
		cancel()
		require.NoError(t, <-done)
		done <- nil
	}
	t.Cleanup(func() { l.stop() })
	return l
}

func testWriter(t *testing.T) io.Writer {
	if testing.Verbose() {
		return os.Stderr
	}
	return io.Discard
}

func TestPipeline(t *testing.T) {
	l := newLab(t, setup{})
	pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{
		{Name: "make", Stage: "build", Script: []string{"mkdir -p out", "echo made > out/a"}, Artifacts: gitlabtest.Archive("out/")},
		{Name: "check", Parallel: 2, Script: []string{"cat out/a README.md", "echo node $CI_NODE_INDEX"}},
		{Name: "ship", Stage: "deploy", Needs: gitlabtest.Needs("make"), Script: []string{"test -f out/a"}, AfterScript: []string{"echo after $CI_JOB_STATUS"}},
	}})
	pl.MustWait(t, gitlabtest.Success, time.Minute)
	for _, j := range pl.Jobs() {
		require.Len(t, j.Log.Assigned, 1)
		require.Len(t, j.Log.Finals, 1)
		require.True(t, j.Log.Finals[0].Right)
		require.Zero(t, j.Log.Gaps)
	}
	require.Contains(t, string(pl.Job("check 2/2").Trace), "made\nhello\n")
	require.Contains(t, string(pl.Job("check 2/2").Trace), "node 2\n")
	require.Contains(t, string(pl.Job("ship").Trace), "after success\n")
}
