package agent

import (
	"context"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer/blob"
)

// Environment of a test process that plays an agent which is killed.
const (
	victimDir    = "ROOST_TEST_VICTIM_DIR"
	victimURL    = "ROOST_TEST_VICTIM_URL"
	victimDriver = "ROOST_TEST_VICTIM_DRIVER"
	victimPlugin = "ROOST_TEST_VICTIM_PLUGIN" // how its plugin ends jobs; "": it has none
)

func playVictim() {
	dir := os.Getenv(victimDir)
	if dir == "" {
		return
	}
	err := func() error {
		ctx := context.Background()
		root := os.Geteuid() == 0
		st, err := store.Open(ctx, filepath.Join(dir, "store"), store.Options{
			Driver: func(d string) (view.Driver, error) {
				return view.Open(os.Getenv(victimDriver), d, view.Options{Owners: root})
			}, Owners: root, ReserveBytes: 1 << 20,
		})
		if err != nil {
			return err
		}
		c, err := api.NewClient(os.Getenv(victimURL), "a-token", nil)
		if err != nil {
			return err
		}
		o := Options{
			Name: "a", Slots: 2, Coordinator: c, Store: st,
			Blobs: blob.NewHTTP(c.BlobsURL(), c.Token, nil), Grace: time.Second,
		}
		if end := os.Getenv(victimPlugin); end != "" {
			o.Plugin = (&scripted{dir: dir, end: end}).on
			o.Pool = &api.Pool{System: api.SystemGitLab, Name: "pool"}
		} else if o.Adapter, err = exec.New(exec.Options{StateDir: filepath.Join(dir, "exec")}); err != nil {
			return err
		}
		a, err := New(o)
		if err != nil {
			return err
		}
		return a.Run(ctx)
	}()
	os.Stderr.WriteString("victim: " + err.Error() + "\n") //nolint:errcheck // about to exit
	os.Exit(1)
}

// victim starts an agent in a process of its own on h's directory.
func (h *host) victim(env ...string) *osexec.Cmd {
	h.t.Helper()
	self, err := os.Executable()
	require.NoError(h.t, err)
	cmd := osexec.Command(self)
	cmd.Env = append(os.Environ(), victimDir+"="+h.dir, victimURL+"="+h.f.srv.URL, victimDriver+"="+h.driver)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = h.t.Output()
	require.NoError(h.t, os.MkdirAll(h.dir, 0o755))
	require.NoError(h.t, cmd.Start())
	h.t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // dead already
		cmd.Wait()         //nolint:errcheck // killed
	})
	return cmd
}

func kill(t *testing.T, cmd *osexec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait() //nolint:errcheck // killed
}

// TestKilled kills the agent's process at the points of attempt's list of crash
// states, and has another one pick up what is left.
func TestKilled(t *testing.T) {
	t.Parallel()
	drivers(t, func(t *testing.T, driver string) {
		testenv.Require(t, testenv.Linux) // elsewhere nobody ends the job
		setup := func(t *testing.T) (*fake, *host, *osexec.Cmd) {
			f := newFake(t)
			h := newHost(t, f, "a")
			h.driver = driver
			return f, h, h.victim()
		}
		t.Run("during the script", func(t *testing.T) {
			f, h, cmd := setup(t)
			base := f.give("a", job("base", "echo b > b"))
			f.green(base)
			ticks := filepath.Join(t.TempDir(), "ticks")
			at := f.give("a", from(job("long", "echo up", "while :; do echo x >> "+ticks+"; sleep 0.05; done"), base))
			f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
			kill(t, cmd)
			h.start()
			fin := f.finished(at)
			require.True(t, fin.Infrastructure)
			require.Equal(t, api.FailAgentDied, fin.Code)
			a, _ := os.ReadFile(ticks)
			time.Sleep(300 * time.Millisecond)
			b, _ := os.ReadFile(ticks)
			require.Equal(t, len(a), len(b), "the job still runs")
			require.Contains(t, f.logOf(at), "roost: the agent was started anew")
			again := f.give("a", from(job("again", "cat b"), base))
			f.green(again)
			h.end()
			requireNoViews(t, h)
		})
		t.Run("sealed, not reported", func(t *testing.T) {
			f, h, cmd := setup(t)
			f.edit(func() { f.down = func(_, p string) bool { return strings.HasSuffix(p, ":finish") } })
			at := f.give("a", job("done", "echo x > x"))
			require.Eventually(t, func() bool { return f.called(":finish") > 1 }, time.Minute, 5*time.Millisecond)
			kill(t, cmd)
			f.edit(func() { f.down = nil })
			require.Nil(t, at.finish)
			h.start()
			fin := f.green(at)
			require.Equal(t, at.claim.Attempt, fin.Output)
			f.durable(fin.Output)
			child := f.give("a", from(job("child", "cat x"), at))
			f.green(child)
			h.end()
			requireNoViews(t, h)
		})
		t.Run("reported, not uploaded", func(t *testing.T) {
			f, h, cmd := setup(t)
			f.edit(func() { f.down = func(m, p string) bool { return m == "PUT" } })
			at := f.give("a", job("done", "echo x > x"))
			f.green(at)
			require.Eventually(t, func() bool { return f.called("PUT") > 0 }, time.Minute, 5*time.Millisecond)
			kill(t, cmd)
			f.edit(func() { f.down = nil })
			h.start()
			f.durable(at.finish.Output)
			h.end()
			requireNoViews(t, h)
		})
		t.Run("over meanwhile", func(t *testing.T) {
			f, h, cmd := setup(t)
			at := f.give("a", job("long", "echo up", "sleep 100"))
			f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
			kill(t, cmd)
			f.edit(func() { at.fenced = true })
			h.start()
			require.Eventually(t, func() bool { return len(h.store.Views()) == 0 }, time.Minute, 10*time.Millisecond)
			h.end()
			requireNoViews(t, h)
		})
	})
}

// TestNoGoroutineIsLeft counts before and after a whole life.
func TestNoGoroutineIsLeft(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a")
	before := runtime.NumGoroutine()
	h.start()
	f.green(f.give("a", job("one", "echo x > x")))
	f.finished(f.give("a", job("two", "exit 1")))
	h.end()
	f.srv.CloseClientConnections()
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 }, time.Minute, 50*time.Millisecond,
		"%d goroutines before, %d after", before, runtime.NumGoroutine())
}
