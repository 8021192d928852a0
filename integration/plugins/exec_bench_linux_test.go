package plugins

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/agent/pluginhost"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/plugin/plugintest"
)

// bench is an agent's side of the exec plugin: the plugin is a process of its own that is
// kept running.
type bench struct {
	*pluginhost.Jobs
	dir string

	mu   sync.Mutex
	pids []int
	n    int
}

// newBench starts one, with root's means if we are root.
func newBench(t *testing.T) *bench {
	testenv.Require(t, testenv.Bash, testenv.Linux)
	b := &bench{dir: t.TempDir()}
	for d := b.dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755)) // jobs of another user pass through
	}
	b.serve(t)
	return b
}

// serve keeps the plugin running until the test ends.
func (b *bench) serve(t *testing.T) {
	b.open(t, t.Output())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Keep(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func (b *bench) open(t require.TestingT, log io.Writer) {
	conf, err := json.Marshal(exec.Config{RootMode: os.Geteuid() == 0, RunAs: map[bool]string{true: "64321:64321"}[os.Geteuid() == 0]})
	require.NoError(t, err)
	b.Jobs, err = pluginhost.NewJobs(pluginhost.Options{
		Name: exec.Name, Program: pluginhost.Program{Args: []string{"be-exec"}},
		Settings: plugin.Settings{Host: "h", Dir: filepath.Join(b.dir, "exec"), Config: conf},
		Restart:  pluginhost.Restart{First: time.Millisecond, Most: 10 * time.Millisecond},
		Started: func(_ plugin.Description, pid int) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.pids = append(b.pids, pid)
		},
		Log: hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Info}),
	})
	require.NoError(t, err)
}

// place makes a view. Its path is the same without root, where nothing else can be had.
func (b *bench) place(t *testing.T) plugintest.Place {
	b.mu.Lock()
	b.n++
	view := filepath.Join(b.dir, "views", fmt.Sprint(b.n))
	b.mu.Unlock()
	require.NoError(t, os.MkdirAll(view, 0o755))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(view, 64321, 64321))
	}
	return plugintest.Place{View: view, Path: view}
}

// kill kills the plugin as it is now, once for each process, and returns how many there were.
func (b *bench) kill() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.pids); n > 0 {
		syscall.Kill(b.pids[n-1], syscall.SIGKILL) //nolint:errcheck // dead already
	}
	return len(b.pids)
}

// killed kills it, and waits until there is another one.
func (b *bench) killed(t *testing.T) {
	t.Helper()
	was := b.kill()
	wait(t, "the plugin is started again", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.pids) > was
	})
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	require.Eventually(t, done, 2*time.Minute, 10*time.Millisecond, what)
}

// begun is a job that runs.
type begun struct {
	plugintest.Log
	job  plugin.Job
	stop context.CancelFunc
	done chan struct{}
	res  plugin.Result
	err  error
}

func (b *bench) begin(t *testing.T, job plugin.Job) *begun {
	p := b.place(t)
	job.Attempt, job.Name, job.View, job.Path = plugintest.NewID(t), "test", p.View, p.Path
	job.Script = append([]string{"echo x >> began"}, job.Script...)
	r := &begun{job: job, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		defer close(r.done)
		r.res, r.err = b.Run(ctx, job, &r.Log)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

// end waits for the result. The script began once, whatever happened.
func (r *begun) end(t *testing.T) plugin.Result {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(2 * time.Minute):
		require.FailNow(t, "the job does not end", r.String())
	}
	require.NoError(t, r.err)
	b, err := os.ReadFile(filepath.Join(r.job.View, "began"))
	require.NoError(t, err)
	require.Equal(t, "x\n", string(b))
	return r.res
}

func (r *begun) own() string { return own(r.String()) }

// own is the job's own output.
func own(log string) string {
	var keep []string
	for _, l := range strings.Split(log, "\n") {
		if !strings.HasPrefix(l, "\x1b[") {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep, "\n")
}

// release lets a job go on that waits for it.
func (r *begun) release(t *testing.T) {
	require.NoError(t, os.WriteFile(filepath.Join(r.job.View, "go"), nil, 0o644)) //nolint:gosec // the job is another user
}

// empty: nothing of any job is left, processes included.
func (b *bench) empty(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(b.dir, "exec", "[^.]*")) // .run is the plugin's sockets
	require.NoError(t, err)
	require.Empty(t, left)
}
