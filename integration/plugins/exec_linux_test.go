package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
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
	"github.com/roost-ci/roost/snapshot"
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

// TestExec has the plugin pass the suite of adapters, across the process boundary.
func TestExec(t *testing.T) {
	plugintest.Run(t, func(t *testing.T) plugintest.Fixture {
		b := newBench(t)
		return plugintest.Fixture{Adapter: b, Place: b.place}
	})
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

const hold = "until test -e go; do sleep 0.02; done"

// TestExecKilledWhileRunning: the job goes on without the plugin, and nobody notices.
func TestExecKilledWhileRunning(t *testing.T) {
	b := newBench(t)
	good := b.begin(t, plugin.Job{Script: []string{"echo up", hold, "echo end"}, After: []string{"echo after $CI_JOB_STATUS"}})
	bad := b.begin(t, plugin.Job{Script: []string{"echo up", hold, "exit 42"}})
	good.Wait(t, "\nup\n")
	bad.Wait(t, "\nup\n")
	for range 3 {
		b.killed(t)
	}
	good.release(t)
	bad.release(t)
	b.kill() // or it ends while there is none
	require.Equal(t, plugin.StatusSuccess, good.end(t).Status)
	require.Equal(t, "up\nend\nafter success\n", good.own())
	res := bad.end(t)
	require.Equal(t, plugin.StatusFailed, res.Status)
	require.Equal(t, 42, res.ExitCode)
	b.empty(t)
}

// empty: nothing of any job is left, processes included.
func (b *bench) empty(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(b.dir, "exec", "[^.]*")) // .run is the plugin's sockets
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestExecKilledWhileTalking: no byte of the log is lost or doubled.
func TestExecKilledWhileTalking(t *testing.T) {
	b := newBench(t)
	const lines = 400_000
	j := b.begin(t, plugin.Job{Script: []string{fmt.Sprintf("seq %d", lines), hold, fmt.Sprintf("seq %d %d", lines+1, 2*lines)}})
	for range 6 {
		was := len(j.String())
		b.killed(t)
		wait(t, "output, or all of it", func() bool {
			s := j.String()
			return len(s) > was || strings.HasSuffix(s, fmt.Sprintf("\n%d\n", lines))
		})
	}
	j.release(t)
	b.killed(t)
	require.Equal(t, plugin.StatusSuccess, j.end(t).Status)
	var want strings.Builder
	for i := 1; i <= 2*lines; i++ {
		fmt.Fprintln(&want, i)
	}
	require.True(t, want.String() == j.own(), "%d bytes, want %d", len(j.own()), want.Len())
	b.empty(t)
}

// TestExecCanceledWithoutPlugin: the word to stop waits for the next process; time limits
// wait for nobody.
func TestExecCanceledWithoutPlugin(t *testing.T) {
	b := newBench(t)
	script := []string{"trap 'echo caught; exit 1' TERM", "echo ready", "while :; do sleep 0.05; done"}
	canceled := b.begin(t, plugin.Job{Script: script, Grace: time.Minute})
	limited := b.begin(t, plugin.Job{Script: script, Grace: time.Minute, Timeout: 3 * time.Second})
	canceled.Wait(t, "\nready\n")
	b.kill()
	canceled.stop()
	require.Equal(t, plugin.StatusCanceled, canceled.end(t).Status)
	require.Contains(t, canceled.own(), "caught\n")
	b.killed(t)
	require.Equal(t, plugin.StatusTimedOut, limited.end(t).Status)
	b.empty(t)
}

// TestExecKilledAtRandom kills it all the time.
func TestExecKilledAtRandom(t *testing.T) {
	b := newBench(t)
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(i*37%250) * time.Millisecond):
				b.kill()
			}
		}
	})
	var jobs []*begun
	for i := range 12 {
		jobs = append(jobs, b.begin(t, plugin.Job{Script: []string{"seq 100", "sleep 0.3", fmt.Sprintf("exit %d", i%3)}}))
		if i%3 == 2 {
			for _, j := range jobs[i-2:] {
				<-j.done
			}
		}
	}
	close(stop)
	killer.Wait()
	for i, j := range jobs {
		res := j.end(t)
		require.Equal(t, i%3, res.ExitCode, "%+v", res)
		require.Equal(t, []plugin.Status{plugin.StatusSuccess, plugin.StatusFailed}[min(1, i%3)], res.Status)
		require.Equal(t, 100, strings.Count(j.own(), "\n"))
	}
	b.empty(t)
}

// TestExecSupervisorKilled: what ran is gone, with the plugin or without.
func TestExecSupervisorKilled(t *testing.T) {
	b := newBench(t)
	j := b.begin(t, plugin.Job{Script: []string{"echo up", "sleep 1000"}})
	j.Wait(t, "\nup\n")
	pid := supervisorOf(t, j.job.Attempt)
	b.kill()
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Equal(t, plugin.StatusSystemFailure, j.end(t).Status)
	b.empty(t)
}

// supervisorOf finds a job's first process by its arguments.
func supervisorOf(t *testing.T, id snapshot.ID) int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err == nil && string(b) == "roost-job\x00"+string(id)+"\x00" {
			var pid int
			_, err := fmt.Sscanf(d, "/proc/%d/cmdline", &pid)
			require.NoError(t, err)
			return pid
		}
	}
	t.Fatal("no supervisor")
	return 0
}

// TestExecCanNotBeKept: a program that is no plugin ends the calls that wait for it.
func TestExecCanNotBeKept(t *testing.T) {
	j, err := pluginhost.NewJobs(pluginhost.Options{
		Name: exec.Name, Program: pluginhost.Program{Args: []string{"be-plugin"}}, // GitLab's
		Settings: plugin.Settings{Dir: t.TempDir()},
	})
	require.NoError(t, err)
	kept := make(chan error, 1)
	go func() { kept <- j.Keep(t.Context()) }()
	_, err = j.Run(t.Context(), plugin.Job{Attempt: plugintest.NewID(t)}, &plugintest.Log{})
	require.ErrorIs(t, err, pluginhost.ErrName)
	require.ErrorIs(t, <-kept, pluginhost.ErrName)
	require.ErrorIs(t, j.Kill(t.Context(), plugintest.NewID(t)), pluginhost.ErrName)
	require.False(t, errors.Is(err, plugin.ErrUnavailable))
}

// beAgent plays an agent with a job that never ends: be-agent DIR VIEW ATTEMPT.
func beAgent(args []string) {
	b := &bench{dir: args[0]}
	b.open(panics{}, io.Discard)
	go b.Keep(context.Background()) //nolint:errcheck // it is killed
	job := plugin.Job{Attempt: snapshot.ID(args[2]), View: args[1], Path: args[1], Script: []string{
		"(setsid bash -c 'trap \"\" TERM; while :; do echo $$ >> ticks; sleep 0.05; done' &)",
		"while ! test -s ticks; do sleep 0.01; done", "echo up", "sleep 1000",
	}}
	b.Run(context.Background(), job, &sayUp{b: b}) //nolint:errcheck // it is killed
}

// sayUp says who the plugin is once the job is up.
type sayUp struct {
	b   *bench
	all string
}

func (w *sayUp) Write(p []byte) (int, error) {
	was := strings.Contains(w.all, "\nup\n")
	w.all += string(p)
	if !was && strings.Contains(w.all, "\nup\n") {
		w.b.mu.Lock()
		fmt.Println(w.b.pids[0])
		w.b.mu.Unlock()
	}
	return len(p), nil
}

type panics struct{}

func (panics) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (panics) FailNow()                          { panic("failed") }

// TestExecAgentKilled: a job ends with its agent, also when no agent ever comes back; the
// next one makes sure.
func TestExecAgentKilled(t *testing.T) {
	for _, also := range []string{"nobody", "plugin first", "plugin later", "supervisor"} {
		t.Run(also, func(t *testing.T) {
			b := &bench{dir: newBench(t).dir}
			b.dir = filepath.Join(b.dir, "other")
			require.NoError(t, os.Mkdir(b.dir, 0o755)) //nolint:gosec // jobs pass through
			view, id := b.place(t).View, plugintest.NewID(t)
			agent := osexec.Command("/proc/self/exe", "be-agent", b.dir, view, string(id))
			out, err := agent.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, agent.Start())
			t.Cleanup(func() { agent.Process.Kill() }) //nolint:errcheck // killed already, if all went well
			var pid int
			_, err = fmt.Fscan(out, &pid)
			require.NoError(t, err)
			super := supervisorOf(t, id)
			if also == "plugin first" {
				require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			}
			if also == "supervisor" {
				require.NoError(t, syscall.Kill(super, syscall.SIGKILL))
			}
			require.NoError(t, agent.Process.Kill())
			agent.Wait() //nolint:errcheck // killed
			if also == "plugin later" {
				syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it dies with its agent
			}
			if also != "supervisor" {
				wait(t, "the supervisor ends", func() bool { return gone(super) })
			}
			wait(t, "the plugin ends", func() bool { return gone(pid) })
			b.serve(t)
			require.NoError(t, b.Kill(t.Context(), id))
			ticks := filepath.Join(view, "ticks")
			before, err := os.ReadFile(ticks)
			require.NoError(t, err)
			time.Sleep(300 * time.Millisecond)
			after, err := os.ReadFile(ticks)
			require.NoError(t, err)
			require.Equal(t, len(before), len(after), "something of the job still runs")
			b.empty(t)
		})
	}
}

// gone reports whether a process has ended; it may wait for somebody to hear of it.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}
