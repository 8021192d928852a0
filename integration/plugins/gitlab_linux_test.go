package plugins

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/plugin/gitlab"
	"github.com/roost-ci/roost/plugin/plugintest"
	"github.com/roost-ci/roost/plugin/wire"
)

// TestMain is also the main of the plugin, and what the runner calls for artifacts.
func TestMain(m *testing.M) {
	runner.Main()
	exec.MaybeChild()
	if len(os.Args) > 4 && os.Args[1] == "be-agent" {
		beAgent(os.Args[2:])
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "be-exec" {
		wire.Main(exec.NewPlugin("test", wire.Logger().Named("exec")))
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "be-plugin" {
		wire.Main(gitlab.New(gitlab.Options{Version: "test", Log: wire.Logger().Named("gitlab")}))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestGitLab(t *testing.T) {
	testenv.Require(t, testenv.Bash, testenv.Git)
	plugintest.RunPlugin(t, plugintest.PluginFixture{
		Command: wire.Command{Path: os.Args[0], Args: []string{"roost", "be-plugin"}, Env: []string{"PATH=" + os.Getenv("PATH")}},
		Driver:  func(t *testing.T) plugintest.Driver { return newLab(t) },
		Jobs:    6, // a job takes a second here
		Slow:    3,
	})
}

// lab is a GitLab, and a runner with a slot of its own for each entry.
type lab struct {
	t       *testing.T
	g       *gitlabtest.GitLab
	project *gitlabtest.Project
	token   *gitlabtest.Runner
	listen  string
	marks   string // files that scripts leave

	mu   sync.Mutex
	jobs map[string]int64
	up   bool // the runner runs
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, g: gitlabtest.New(t, gitlabtest.Options{}), marks: t.TempDir(), jobs: map[string]int64{}}
	l.project = l.g.AddProject(t, "group/demo", map[string]string{"README.md": "hello\n"})
	l.token = l.g.AddRunner(gitlabtest.RunnerDef{})
	l.listen = testenv.Addr(t)
	t.Cleanup(func() {
		if t.Failed() {
			for _, j := range l.g.Jobs() {
				t.Logf("job %s: %s %s\n%s", j.Name, j.Status, j.FailureReason, j.Trace)
			}
		}
	})
	return l
}

func slotToken(n int) string { return fmt.Sprintf("roost-slot-%d-0123456789abcdef", n) }

// Config implements plugintest.Driver. The runner starts with the first plugin, and stays.
func (l *lab) Config(views string) json.RawMessage {
	c := gitlab.Config{
		URL: l.g.URL(), Listen: []string{l.listen}, Executor: gitlab.ExecutorShell, Tokens: []string{l.token.Token()},
		HoldMS: 2000, KeepAliveMS: 500, FinalMS: 20_000, AckMS: 3000, GoneMS: 3000, SilentMS: 5000, OrphanMS: 3000, RetryMS: 20,
	}
	var entries []runner.Entry
	yes := true // the installer sets it, so that GIT_CLONE_PATH may be given
	for n := 1; n <= 2; n++ {
		builds := filepath.Join(views, fmt.Sprint(n))
		c.Slots = append(c.Slots, gitlab.Slot{Number: n, Token: slotToken(n), BuildsDir: builds})
		entries = append(entries, runner.Entry{
			Name: fmt.Sprint("slot", n), URL: fmt.Sprintf("http://%s/slot%d", l.listen, n), Token: slotToken(n),
			Executor: "shell", BuildsDir: builds, CacheDir: l.t.TempDir(), Limit: 1, UnhealthyLimit: 1 << 30,
			CustomBuildDir: &yes,
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		l.up = true
		l.run(runner.Config{Entries: entries, Scale: 50, Log: l.t.Output()})
	}
	b, err := json.Marshal(c)
	require.NoError(l.t, err)
	return b
}

func (l *lab) run(c runner.Config) {
	r, err := runner.New(c)
	require.NoError(l.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		require.NoError(l.t, <-done)
	})
}

func (l *lab) mark(name, what string) string { return filepath.Join(l.marks, name+"."+what) }

// Submit runs a pipeline of one job, and fetches it as the coordinator does.
func (l *lab) Submit(t testing.TB, j plugintest.TestJob) []byte {
	script := []string{
		"exec 9>" + l.mark(j.Name, "lock"), "flock 9",
		"pwd >" + l.mark(j.Name, "dir"), "echo x >>" + l.mark(j.Name, "began"),
	}
	if j.Waits {
		script = append(script, "until test -e "+l.mark(j.Name, "go")+"; do sleep 0.02; done")
	}
	script = append(script, fmt.Sprintf("exit %d", j.Exit))
	pl := l.project.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{{
		Name: j.Name, Script: script, Variables: []gitlabtest.Variable{{Key: "CANARY", Value: j.Secret, Masked: true}},
	}}})
	l.mu.Lock()
	l.jobs[j.Name] = pl.Job(j.Name).ID
	l.mu.Unlock()
	body := fmt.Sprintf(`{"token":%q,"system_id":"s_coordinator","info":{"features":%s}}`, l.token.Token(), features)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.g.URL()+"/api/v4/jobs/request", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("RUNNER-TOKEN", l.token.Token())
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	var payload bytes.Buffer
	_, err = payload.ReadFrom(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, res.StatusCode, payload.String())
	return payload.Bytes()
}

// features are what a shell runner can do, as far as a job here wants it.
const features = `{"variables":true,"artifacts":true,"cache":true,"refspecs":true,"masking":true,"raw_variables":true,` +
	`"return_exit_code":true,"trace_checksum":true,"trace_size":true,"cancelable":true,"multi_build_steps":true}`

// Release implements plugintest.Driver.
func (l *lab) Release(t testing.TB, name string) {
	require.NoError(t, os.WriteFile(l.mark(name, "go"), nil, 0o600))
}

// Look implements plugintest.Driver.
func (l *lab) Look(t testing.TB, name string) plugintest.Seen {
	l.mu.Lock()
	id := l.jobs[name]
	l.mu.Unlock()
	j := l.g.Job(id)
	began, _ := os.ReadFile(l.mark(name, "began"))
	dir, _ := os.ReadFile(l.mark(name, "dir"))
	seen := plugintest.Seen{
		Began: strings.Count(string(began), "x"), Dir: strings.TrimSpace(string(dir)), Log: string(j.Trace),
	}
	seen.Running = seen.Began > 0 && locked(t, l.mark(name, "lock"))
	for _, f := range j.Log.Finals {
		switch {
		case f.State == gitlabtest.Success:
			seen.Ended = append(seen.Ended, plugin.StatusSuccess)
		case strings.Contains(f.FailureReason, "system_failure"):
			seen.Ended = append(seen.Ended, plugin.StatusSystemFailure)
		default:
			seen.Ended = append(seen.Ended, plugin.StatusFailed)
		}
		require.True(t, f.Right || blind(j, f), "the log of %s is of %d bytes and checksum %08x, reported was %+v; gaps %d, repeats %d\n%s",
			name, len(j.Trace), j.CRC(), f, j.Log.Gaps, j.Log.Repeats, j.Trace)
	}
	return seen
}

// blind: a process that was killed before it handed the job out had put lines of progress into
// the log. The next one can't know them, sees by GitLab's refusal that they are there, and tells
// no checksum. The runner's part must be there once all the same.
func blind(j gitlabtest.Job, f gitlabtest.Final) bool {
	return f.Checksum == "" && f.Size == 0 && j.Log.Gaps > 0 && strings.Count(string(j.Trace), "Running with gitlab-runner") == 1
}

func locked(t testing.TB, path string) bool {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}
