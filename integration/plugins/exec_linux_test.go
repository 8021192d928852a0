package plugins

import (
	"context"
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

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/agent/pluginhost"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/plugin/plugintest"
	"github.com/roost-ci/roost/snapshot"
)

// TestExec has the plugin pass the suite of adapters, across the process boundary.
func TestExec(t *testing.T) {
	plugintest.Run(t, func(t *testing.T) plugintest.Fixture {
		b := newBench(t)
		return plugintest.Fixture{Adapter: b, Place: b.place}
	})
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
		if err == nil && strings.HasPrefix(string(b), "roost-job\x00"+string(id)+"\x00") {
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
