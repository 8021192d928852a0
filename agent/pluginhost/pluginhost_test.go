//go:build unix

package pluginhost

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire"
	"github.com/roost-ci/roost/snapshot"
)

func TestServesAndEnds(t *testing.T) {
	t.Setenv("ROOST_TOKEN", "secret")
	t.Setenv("LANG", "C.UTF-8")
	reach := []string{"https_proxy=http://u:p@proxy:3128", "NO_PROXY=.here", "SSL_CERT_FILE=/etc/ca.pem"}
	for _, kv := range reach {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	r := run(t, "")
	s := r.l.next(t)
	require.Equal(t, "serve", s.What)
	require.Equal(t, r.o.Settings.Dir, s.Dir)
	env := strings.Join(s.Env, "\n")
	require.NotContains(t, env, "secret")
	require.Contains(t, env, "LANG=C.UTF-8")
	require.Subset(t, s.Env, reach)
	for _, kv := range s.Env {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "PLUGIN_"), name == "ROOST_PLUGIN":
		default:
			require.Contains(t, passed, name)
		}
	}
	fi, err := os.Stat(r.o.Settings.Dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
	pid := <-r.pids
	require.True(t, alive(pid))
	r.stop(t)
	require.Equal(t, "end", r.l.next(t).What, "it was told, and could still call")
	require.False(t, alive(pid))
	left, err := os.ReadDir(r.o.Settings.Dir)
	require.NoError(t, err)
	require.Empty(t, left, "sockets")
}

func TestAnotherUser(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	top, err := os.MkdirTemp("", "pluginhost") //nolint:usetesting // others may not pass through t.TempDir
	require.NoError(t, err)
	defer os.RemoveAll(top)
	require.NoError(t, os.Chmod(top, 0o755))
	var sockets string
	for _, name := range []string{"nobody", "65534"} {
		r := run(t, "", func(o *Options) { o.User, o.Settings.Dir = name, filepath.Join(top, "p") })
		s := r.l.next(t)
		require.Equal(t, "65534 65534 []", s.User)
		require.Empty(t, s.Low)
		require.Contains(t, s.Env, "HOME="+r.o.Settings.Dir)
		require.Equal(t, r.o.Settings.Dir, s.Dir)
		<-r.pids
		sockets = r.sockets
		r.stop(t)
		require.Equal(t, "end", r.l.next(t).What)
		require.NoDirExists(t, sockets)
	}
	_, err = New(Options{Agent: newListener(), Settings: plugin.Settings{Dir: "/x"}, User: "no-such-user"})
	require.ErrorContains(t, err, "no-such-user")
}

func TestStartsAgain(t *testing.T) {
	for _, mode := range []string{"fails", "crashes", ""} {
		t.Run(mode, func(t *testing.T) {
			r := run(t, mode)
			seen := map[int]bool{}
			for range 4 {
				require.Equal(t, "serve", r.l.next(t).What)
				pid := <-r.pids
				require.False(t, seen[pid], "attached to again")
				seen[pid] = true
				if mode == "" {
					require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
				}
			}
		})
	}
}

func TestStubbornIsKilled(t *testing.T) {
	r := run(t, "stubborn", func(o *Options) { o.Grace = 100 * time.Millisecond })
	r.l.next(t)
	pid := <-r.pids
	r.stop(t)
	require.False(t, alive(pid))
}

// TestSignalsAreTheAgents: systemd tells all processes at once.
func TestSignalsAreTheAgents(t *testing.T) {
	r := run(t, "")
	r.l.next(t)
	pid := <-r.pids
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		require.NoError(t, syscall.Kill(pid, sig))
	}
	require.NoError(t, r.Lost(t.Context(), "01234567890123456789012345", "x"))
	require.Contains(t, r.l.next(t).What, "lost ")
	require.True(t, alive(pid))
	r.stop(t)
}

func TestRefused(t *testing.T) {
	require.ErrorIs(t, run(t, "newer").wait(t), wire.ErrContract)
	require.ErrorIs(t, run(t, "other", func(o *Options) { o.Name = "child" }).wait(t), ErrName)
	r := run(t, "slot")
	r.l.next(t)
	require.Contains(t, r.l.next(t).What, "true invalid request: slot 9")
}

func TestLostIsToldUntilDiscarded(t *testing.T) {
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	want := "lost " + string(id) + " gone"
	r := run(t, "deaf")
	r.l.held = []plugin.Held{{Attempt: id, Slot: 1}}
	r.l.next(t)
	require.NoError(t, r.Lost(t.Context(), id, "gone"))
	require.Equal(t, want, r.l.next(t).What)
	require.Equal(t, want, r.l.next(t).What, "told again: it was not understood")
	require.NoError(t, syscall.Kill(<-r.pids, syscall.SIGKILL))
	got := []string{r.l.next(t).What, r.l.next(t).What}
	require.ElementsMatch(t, []string{"serve", want}, got, "told anew after a restart")
	r.stop(t)

	r = run(t, "discards")
	r.l.held = []plugin.Held{{Attempt: id, Slot: 1}}
	r.l.next(t)
	require.NoError(t, r.Lost(t.Context(), id, "gone"))
	require.Equal(t, want, r.l.next(t).What)
	require.Eventually(t, func() bool {
		r.lost.mu.Lock()
		defer r.lost.mu.Unlock()
		return len(r.lost.all) == 0
	}, time.Minute, time.Millisecond)
}

// beAgent runs a plugin and waits to be killed.
func beAgent(dir string) {
	h, err := New(Options{
		Program: Program{Args: []string{"be-plugin", "stubborn"}}, Agent: newListener(),
		Settings: plugin.Settings{Slots: []int{1}, Dir: dir},
		Started:  func(_ plugin.Description, pid int) { fmt.Println(pid) },
	})
	if err == nil {
		err = h.Run(context.Background())
	}
	fmt.Println(err)
}

// TestDiesWithItsAgent: also if it listens to nobody. Where the kernel doesn't kill it, it ends by
// itself when its connection breaks (plugin/wire has the test).
func TestDiesWithItsAgent(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	cmd := exec.Command(os.Args[0], "be-agent", t.TempDir())
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pid int
	_, err = fmt.Fscan(out, &pid)
	require.NoError(t, err)
	require.True(t, alive(pid))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return !alive(pid) }, time.Minute, 10*time.Millisecond)
}
