package exec

import (
	"bufio"
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/plugintest"
	"github.com/roost-ci/roost/snapshot"
)

// Environment of a test process that plays an agent which is killed.
const (
	victimState = "ROOST_TEST_VICTIM_STATE"
	victimView  = "ROOST_TEST_VICTIM_VIEW"
	victimID    = "ROOST_TEST_VICTIM_ID"
	victimMode  = "ROOST_TEST_VICTIM_MODE"
)

// playVictim runs a job that leaves daemons and never ends.
func playVictim() {
	if os.Getenv(victimState) == "" {
		return
	}
	mode := os.Getenv(victimMode)
	a, err := New(Options{StateDir: os.Getenv(victimState), noCgroup: strings.Contains(mode, "nocgroup")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	job := plugin.Job{Attempt: snapshot.ID(os.Getenv(victimID)), View: os.Getenv(victimView), Script: []string{
		"tick() { while :; do echo $BASHPID >> ticks; sleep 0.05; done; }",
		"(setsid bash -c 'trap \"\" TERM; while :; do echo $$ >> ticks; sleep 0.05; done' &)",
		"tick & disown", "while ! test -s ticks; do sleep 0.01; done", "echo up", "sleep 1000",
	}}
	a.Run(context.Background(), job, os.Stdout) //nolint:errcheck // it is killed
	os.Exit(1)
}

// TestAgentKilled kills an agent during a job. The job ends by itself, and Kill
// makes sure.
func TestAgentKilled(t *testing.T) {
	for _, mode := range []string{"cgroup", "nocgroup", "cgroup, supervisor too", "nocgroup, supervisor too"} {
		t.Run(mode, func(t *testing.T) {
			f := newFixture(t, Options{noCgroup: strings.Contains(mode, "nocgroup")})
			view, id := t.TempDir(), plugintest.NewID(t)
			cmd := osexec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), victimState+"="+f.o.StateDir, victimView+"="+view, victimID+"="+string(id), victimMode+"="+mode)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			sc := bufio.NewScanner(out)
			for sc.Scan() && sc.Text() != "up" {
			}
			require.Equal(t, "up", sc.Text())
			at := f.attempt(id)
			require.NoError(t, at.load())
			require.DirExists(t, at.Temp)
			if strings.Contains(mode, "supervisor") {
				stopSupervisor(t, cmd.Process.Pid)
			}
			require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
			cmd.Wait() //nolint:errcheck // killed

			if mode == "cgroup" { // also when no agent ever comes back
				require.Eventually(t, func() bool {
					_, err := os.Stat(filepath.Join(f.cgroups, cgroupPrefix+string(id)))
					return os.IsNotExist(err)
				}, time.Minute, 10*time.Millisecond)
				require.Eventually(t, func() bool {
					_, err := os.Stat(at.Temp)
					return os.IsNotExist(err)
				}, time.Minute, 10*time.Millisecond)
			}
			require.NoError(t, f.Kill(t.Context(), id))
			require.NoDirExists(t, at.Temp)
			ticks := filepath.Join(view, "ticks")
			a, err := os.ReadFile(ticks)
			require.NoError(t, err)
			time.Sleep(300 * time.Millisecond)
			b, err := os.ReadFile(ticks)
			require.NoError(t, err)
			require.Equal(t, len(a), len(b), "something of the job still runs")
			require.NoDirExists(t, filepath.Join(f.o.StateDir, string(id)))
			require.NoError(t, f.Kill(t.Context(), id), "twice")
			if f.cgroups != "" {
				require.NoDirExists(t, filepath.Join(f.cgroups, cgroupPrefix+string(id)))
			}
		})
	}
}

// TestKilledWhileRecording: a plugin that was killed between making a job's directory and
// writing its record, or with the record half-way, did not lose the job.
func TestKilledWhileRecording(t *testing.T) {
	for _, root := range []bool{false, true} {
		for name, leave := range map[string]func(*testing.T, *fixture, *plugin.Job){
			"nothing written": func(t *testing.T, f *fixture, job *plugin.Job) {
				require.NoError(t, os.Mkdir(f.attempt(job.Attempt).dir, 0o700))
			},
			"a directory, and no record": func(t *testing.T, f *fixture, job *plugin.Job) {
				at := f.attempt(job.Attempt)
				require.NoError(t, os.Mkdir(at.dir, 0o700))
				require.NoError(t, at.makeTemp())
			},
			"an empty record": func(t *testing.T, f *fixture, job *plugin.Job) {
				at := f.attempt(job.Attempt)
				require.NoError(t, os.Mkdir(at.dir, 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(at.dir, "job.json"), nil, 0o600))
			},
			"launched, and the record lost": func(t *testing.T, f *fixture, job *plugin.Job) {
				at, err := f.newAttempt(job.Attempt)
				require.NoError(t, err)
				p, err := f.launch(at, job)
				require.NoError(t, err)
				p.close()
				require.NoError(t, os.Truncate(filepath.Join(at.dir, "job.json"), 0))
			},
		} {
			t.Run(fmt.Sprintf("%s, root %v", name, root), func(t *testing.T) {
				f := newFixture(t, Options{RootMode: root})
				p := f.place(t)
				job := plugin.Job{Attempt: plugintest.NewID(t), Name: "job", View: p.View, Path: p.Path, Script: []string{"pwd"}}
				leave(t, f, &job)
				var log plugintest.Log
				res, err := f.Run(t.Context(), job, &log)
				require.NoError(t, err)
				require.Equal(t, plugin.StatusSuccess, res.Status, res.Reason)
				require.NoError(t, f.Kill(t.Context(), job.Attempt))
				if temp := f.attempt(job.Attempt).temp(); temp != "" {
					require.NoDirExists(t, temp)
				}
				require.Eventually(t, func() bool { return len(descendants(os.Getpid())) == 0 }, time.Minute, 5*time.Millisecond)
			})
		}
	}
}

// TestRecordIsNeverTorn: at no moment of a save can nothing, or a part, be read.
func TestRecordIsNeverTorn(t *testing.T) {
	f := newFixture(t, Options{})
	at, err := f.newAttempt(plugintest.NewID(t))
	require.NoError(t, err)
	t.Cleanup(at.remove)
	at.PID = 1
	require.NoError(t, at.save())
	var saved atomic.Bool
	done := make(chan error, 1)
	go func() {
		defer saved.Store(true)
		for range 2000 {
			if err := at.save(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for !saved.Load() {
		require.NoError(t, f.attempt(at.id).load())
	}
	require.NoError(t, <-done)
	at.PID = 0
	require.NoError(t, at.save())
	was := f.attempt(at.id)
	require.NoError(t, was.load(), "a shorter one over a longer one")
	require.Zero(t, was.PID)
}

// stopSupervisor kills the supervisor of an agent's job.
func stopSupervisor(t *testing.T, agent int) {
	for _, pid := range descendants(agent) {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.HasPrefix(string(b), childName+"\x00") {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			return
		}
	}
	t.Fatal("no supervisor")
}

// TestSupervisorKilled: the job ends as an infrastructure failure, not as its own,
// and nothing of it is left.
func TestSupervisorKilled(t *testing.T) {
	for _, no := range []bool{false, true} {
		t.Run(fmt.Sprintf("noCgroup=%v", no), func(t *testing.T) {
			f := newFixture(t, Options{noCgroup: no})
			p := f.place(t)
			var log plugintest.Log
			done := make(chan plugin.Result, 1)
			go func() {
				res, err := f.Run(t.Context(), plugin.Job{Attempt: plugintest.NewID(t), View: p.View, Script: []string{
					"(setsid bash -c 'while :; do echo x >> ticks; sleep 0.05; done' &)", "while ! test -s ticks; do sleep 0.01; done", "echo up", "sleep 1000",
				}}, &log)
				if err != nil {
					t.Errorf("Run: %v", err)
				}
				done <- res
			}()
			log.Wait(t, "\nup\n")
			stopSupervisor(t, os.Getpid())
			res := <-done
			require.Equal(t, plugin.StatusSystemFailure, res.Status)
			a, _ := os.ReadFile(filepath.Join(p.View, "ticks"))
			time.Sleep(300 * time.Millisecond)
			b, _ := os.ReadFile(filepath.Join(p.View, "ticks"))
			require.Equal(t, len(a), len(b))
		})
	}
}

// TestForkBomb: many processes that make more of themselves end all the same.
func TestForkBomb(t *testing.T) {
	for _, no := range []bool{false, true} {
		t.Run(fmt.Sprintf("noCgroup=%v", no), func(t *testing.T) {
			f := newFixture(t, Options{noCgroup: no})
			p := f.place(t)
			res, _ := runAt(t, f, p, "cat > b <<'X'\necho x >> ticks\nsleep 0.02\n(setsid bash ./b &)\nX",
				"for i in 1 2 3 4 5 6 7 8; do (setsid bash ./b &); done", "sleep 0.3")
			require.Equal(t, plugin.StatusSuccess, res.Status)
			a, _ := os.ReadFile(filepath.Join(p.View, "ticks"))
			time.Sleep(200 * time.Millisecond)
			b, _ := os.ReadFile(filepath.Join(p.View, "ticks"))
			require.Equal(t, len(a), len(b))
		})
	}
}

// TestMarkerIsHarmless: our binary under the supervisor's name, without a socket
// of the adapter's, does nothing.
func TestMarkerIsHarmless(t *testing.T) {
	newFixture(t, Options{})
	for _, in := range []string{"", "{}", `{"start":{"script":"ZXhpdA=="}}`, "garbage"} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		cmd := &osexec.Cmd{Path: "/proc/self/exe", Args: []string{childName}, Env: []string{}, ExtraFiles: []*os.File{r}}
		require.NoError(t, cmd.Start())
		_, err = w.WriteString(in)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Error(t, cmd.Wait(), "there is nothing to listen to")
		require.NoError(t, r.Close())
	}
	cmd := &osexec.Cmd{Path: "/proc/self/exe", Args: []string{childName}, Env: []string{}} // no descriptor 3 at all
	cmd.Run()                                                                              //nolint:errcheck // any end is fine
}

// TestProbesAreSwept: an adapter that was killed while it tried to make a cgroup leaves
// nothing for ever.
func TestProbesAreSwept(t *testing.T) {
	f := newFixture(t, Options{})
	if f.cgroups == "" {
		return // then nothing is tried either
	}
	left := filepath.Join(f.cgroups, probePrefix+"999999999") // no pid is as large
	require.NoError(t, os.Mkdir(left, 0o755))
	sweepProbes(f.cgroups)
	require.NoDirExists(t, left)
}
