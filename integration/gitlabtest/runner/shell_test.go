package runner_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
)

func (l *lab) one(t *testing.T, j job, want gitlabtest.Status, vars ...string) gitlabtest.Job {
	t.Helper()
	j.Name = "a"
	for i := 0; i < len(vars); i += 2 {
		j.Variables = append(j.Variables, gitlabtest.Variable{Key: vars[i], Value: vars[i+1], Raw: true, Public: true})
	}
	pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{j}})
	pl.MustWait(t, want, time.Minute)
	return pl.Job("a")
}

func said(j gitlabtest.Job, text string) bool { return strings.Contains(string(j.Trace), text) }

// Section 3: where a job works by default, and that untracked files go and tracked ones
// are reset unless the flags say otherwise.
func TestDirectories(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{entry: func(e *runner.Entry) { e.CustomBuildDir = yes() }})
	j := l.one(t, job{Script: []string{"pwd", "echo x > new", "mkdir out; echo y > out/z", "echo changed > README.md"}}, gitlabtest.Success)
	token := strings.TrimPrefix(l.entry.Token, "glrt-")[:9]
	require.True(t, said(j, filepath.Join(l.entry.BuildsDir, token, "0", "group", "demo")+"\n"))
	require.True(t, said(j, "Created fresh repository."))
	j = l.one(t, job{Script: []string{"ls", "cat README.md"}}, gitlabtest.Success)
	require.False(t, said(j, "Created fresh repository."))
	require.True(t, said(j, "Removing new") && said(j, "Removing out/") && said(j, "hello\n"))

	dir := filepath.Join(l.entry.BuildsDir, "one")
	l.one(t, job{Script: []string{"echo x > new", "echo changed > README.md"}}, gitlabtest.Success, "GIT_CLONE_PATH", dir)
	j = l.one(t, job{Script: []string{"cat new README.md", "test -z \"$(ls -A $CI_PROJECT_DIR.tmp | grep conf)\" || echo secret"}}, gitlabtest.Success,
		"GIT_CLONE_PATH", dir, "GIT_CLEAN_FLAGS", "none")
	require.True(t, said(j, "x\nhello\n"), "%s", j.Trace)
	_, err := os.Stat(dir + ".tmp/.gitlab-runner.ext.conf")
	require.ErrorIs(t, err, os.ErrNotExist, "the cleanup stage removes the token")
	j = l.one(t, job{Script: []string{"cat new && echo $?"}}, gitlabtest.Success, "GIT_CLONE_PATH", dir, "GIT_STRATEGY", "none")
	require.True(t, said(j, "x\n0\n"))
	j = l.one(t, job{Script: []string{"ls new || true"}}, gitlabtest.Success, "GIT_CLONE_PATH", dir, "GIT_STRATEGY", "clone")
	require.True(t, said(j, "Created fresh repository."))
	require.False(t, said(j, "x\n0\n"))
}

// Section 3: a lock that a killed git left is removed.
func TestLocks(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{entry: func(e *runner.Entry) { e.CustomBuildDir = yes() }})
	dir := filepath.Join(l.entry.BuildsDir, "one")
	l.one(t, job{Script: []string{"touch .git/index.lock .git/HEAD.lock .git/refs/heads/x.lock"}}, gitlabtest.Success, "GIT_CLONE_PATH", dir)
	l.one(t, job{Script: []string{"true"}}, gitlabtest.Success, "GIT_CLONE_PATH", dir)
}

// Section 3: clone empties a mount point and then fails.
func TestCloneOntoMount(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	t.Parallel()
	l := newLab(t, setup{entry: func(e *runner.Entry) { e.CustomBuildDir = yes() }})
	dir := filepath.Join(l.entry.BuildsDir, "mounted")
	require.NoError(t, os.Mkdir(dir, 0o755))
	mount(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600))
	j := l.one(t, job{Script: []string{"true"}}, gitlabtest.Failed, "GIT_CLONE_PATH", dir, "GIT_STRATEGY", "clone")
	require.True(t, said(j, "Device or resource busy"), "%s", j.Trace)
	require.NoFileExists(t, filepath.Join(dir, "precious"))
	l.one(t, job{Script: []string{"true"}}, gitlabtest.Success, "GIT_CLONE_PATH", dir)
}

// Section 5: the end of a stage kills nothing; a program that keeps the output open
// makes it wait.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	pid := filepath.Join(t.TempDir(), "pid")
	l.one(t, job{Script: []string{"sleep 60 >/dev/null 2>&1 & echo $! > " + pid}}, gitlabtest.Success)
	b, err := os.ReadFile(pid)
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	p, err := os.FindProcess(n)
	require.NoError(t, err)
	require.NoError(t, p.Kill(), "it lives on")
	begin := time.Now()
	l.one(t, job{Script: []string{"sleep 1 &"}}, gitlabtest.Success)
	require.GreaterOrEqual(t, time.Since(begin), time.Second)
}

// Section 1, calls 9 and 10: how artifacts are tried again.
func TestArtifactTries(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		up, down gitlabtest.Fault
		ok       bool
	}{
		"503 five times":       {up: gitlabtest.Fault{Status: 503, Times: 5}, ok: true},
		"503 six times":        {up: gitlabtest.Fault{Status: 503, Times: 6}},
		"500 twice":            {up: gitlabtest.Fault{Status: 500, Times: 2}, ok: true},
		"500 three times":      {up: gitlabtest.Fault{Status: 500, Times: 3}},
		"413":                  {up: gitlabtest.Fault{Status: 413}},
		"download broken once": {down: gitlabtest.Fault{Reset: true}, ok: true},
		"download 403":         {down: gitlabtest.Fault{Status: 403}},
		"download 500 twice":   {down: gitlabtest.Fault{Status: 500, Times: 2}, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, setup{gitlab: gitlabtest.Options{DirectDownload: true}})
			c.up.Route, c.down.Route = "POST /api/v4/jobs/{id}/artifacts", "GET /api/v4/jobs/{id}/artifacts"
			if c.up.Status != 0 {
				l.Fault(c.up)
			}
			if c.down.Status != 0 || c.down.Reset {
				l.Fault(c.down)
			}
			pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{
				{Name: "a", Stage: "build", Script: []string{"mkdir out", "echo x > out/f", "ln -s f out/l", "chmod 700 out/f"}, Artifacts: gitlabtest.Archive("out")},
				{Name: "b", Script: []string{"cat out/l", "test -x out/f"}},
			}})
			want := gitlabtest.Failed
			if c.ok {
				want = gitlabtest.Success
			}
			pl.MustWait(t, want, time.Minute)
		})
	}
}

// Lines with their times, by a flag.
func TestTimestamps(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{entry: func(e *runner.Entry) { e.FeatureFlags = map[string]bool{"FF_TIMESTAMPS": true} }})
	j := l.one(t, job{Script: []string{"echo one", "head -c 200000 /dev/zero | tr '\\0' x; echo y", "printf end"}}, gitlabtest.Success, "GIT_STRATEGY", "none")
	stamp := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z 00O[ +]`)
	for line := range strings.SplitSeq(strings.TrimSuffix(string(j.Trace), "\n"), "\n") {
		require.Regexp(t, stamp, line)
	}
	require.Contains(t, string(j.Trace), "00O+")
	require.Contains(t, string(j.Trace), "00O one\n")
}

// Call 10: a redirect is followed, with the path that it has.
func TestRedirectedUpload(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	other := gitlabtest.New(t, gitlabtest.Options{})
	l.RedirectUploads(other.URL() + "/elsewhere")
	j := l.one(t, job{Script: []string{"true"}, Artifacts: gitlabtest.Archive("README.md")}, gitlabtest.Failed)
	require.True(t, said(j, "404 Not Found"), "%s", j.Trace)
	calls := other.Calls("/")
	require.Len(t, calls, 3)
	require.True(t, strings.HasPrefix(calls[0].Path, "/elsewhere/api/v4/jobs/"), calls[0].Path)
}

// 1.1: SIGTERM aborts, SIGQUIT finishes; a limit is per token.
func TestStops(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{{Name: "a", Script: []string{"echo go; sleep 60"}}, {Name: "b"}}})
	require.True(t, eventually(time.Minute, func() bool { return has("\ngo\n")(t, l, pl) }))
	require.Equal(t, gitlabtest.Pending, pl.Job("b").Status, "the limit is one")
	l.stop()
	require.Equal(t, "runner_interrupted", pl.Job("a").FailureReason)
	require.True(t, right(t, l, pl))

	l = newLab(t, setup{})
	pl = l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{{Name: "a", Script: []string{"echo go; sleep 3"}}, {Name: "b"}}})
	require.True(t, eventually(time.Minute, func() bool { return has("\ngo\n")(t, l, pl) }))
	l.r.Quit()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	j, err := pl.Job("a").WaitStatus(ctx, gitlabtest.Success)
	require.NoError(t, err)
	require.NotZero(t, j.ID)
	time.Sleep(100 * time.Millisecond)
	require.Equal(t, gitlabtest.Pending, pl.Job("b").Status)
}

// A runner of its own that is killed reports nothing, and its job's processes live on.
func TestProcess(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	l.stop()
	dir := t.TempDir()
	p := runner.Start(t, runner.Config{Entries: []runner.Entry{l.entry}, Scale: 100})
	pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []job{
		{Name: "a", Script: []string{"echo go; sleep 2; touch " + dir + "/lives; sleep 2"}, Artifacts: gitlabtest.Archive("README.md")},
	}})
	require.True(t, eventually(time.Minute, func() bool { return has("\ngo\n")(t, l, pl) }), "%s", p.Log())
	p.Kill()
	require.True(t, eventually(time.Minute, func() bool { _, err := os.Stat(dir + "/lives"); return err == nil }))
	require.Equal(t, gitlabtest.Running, pl.Job("a").Status)
	pl.Job("a").Drop("stuck_or_timeout_failure")
	p = runner.Start(t, runner.Config{Entries: []runner.Entry{l.entry}, Scale: 100})
	pl.Retry("a")
	pl.MustWait(t, gitlabtest.Success, time.Minute)
	require.Equal(t, 1, pl.Job("a").Log.Uploads)
	require.NoError(t, p.Signal(os.Interrupt))
	require.True(t, p.Wait(time.Minute))
}
