//go:build unix

package pluginhost

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire"
	"github.com/roost-ci/roost/snapshot"
)

// TestMain is also the main of the plugin and of the agent that tests start: this
// binary, with an argument that no flag of a test begins with.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "be-plugin":
		wire.Main(&child{mode: os.Args[2]})
		os.Exit(0)
	case len(os.Args) > 1 && os.Args[1] == "be-agent":
		beAgent(os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is a plugin that tells the agent what it sees by offers; the test's agent
// keeps them.
type child struct {
	mode  string
	agent chan plugin.Agent
	once  sync.Once
}

type said struct {
	What string
	Env  []string `json:",omitempty"`
	Dir  string   `json:",omitempty"`
	Args []string `json:",omitempty"`
	User string   `json:",omitempty"`
	Low  string   `json:",omitempty"` // why it can't listen where root alone may
}

func (c *child) Describe(context.Context) (plugin.Description, error) {
	c.once.Do(func() { c.agent = make(chan plugin.Agent, 1) })
	d := plugin.Description{Name: "child", Version: "7"}
	switch c.mode {
	case "newer":
		d.Contract = 99
	case "other":
		d.Name = "other"
	}
	return d, nil
}

func (c *child) Serve(ctx context.Context, s plugin.Settings, a plugin.Agent) error {
	wd, _ := os.Getwd()
	groups, _ := os.Getgroups()
	say(ctx, a, said{
		What: "serve", Env: os.Environ(), Dir: wd, Args: os.Args,
		User: fmt.Sprint(os.Geteuid(), os.Getegid(), groups), Low: low(),
	})
	c.agent <- a
	switch c.mode {
	case "fails":
		return &plugin.Error{Code: "PORT", Text: "the port is taken"}
	case "crashes":
		os.Exit(3)
	case "stubborn":
		<-ctx.Done()
		time.Sleep(time.Hour)
	case "slot":
		_, err := a.Claim(ctx, plugin.Offer{Slot: 9})
		say(ctx, a, said{What: fmt.Sprint(errors.Is(err, plugin.ErrInvalid), err)})
	}
	<-ctx.Done()
	say(context.WithoutCancel(ctx), a, said{What: "end"})
	return nil
}

func low() string {
	l, err := net.Listen("tcp", "127.0.93.41:929")
	if err != nil {
		return err.Error()
	}
	l.Close()
	return ""
}

func say(ctx context.Context, a plugin.Agent, s said) {
	b, _ := json.Marshal(s)
	_, _ = a.Claim(ctx, plugin.Offer{Slot: 1, Runner: b})
}

func (c *child) Lost(ctx context.Context, id snapshot.ID, why string) error {
	a := <-c.agent
	c.agent <- a
	say(ctx, a, said{What: "lost " + string(id) + " " + why})
	switch {
	case c.mode == "deaf":
		c.mode = ""
		return errors.New("not now")
	case c.mode == "discards":
		return a.Discard(ctx, plugin.DiscardRequest{Attempt: id, Outcome: plugin.OutcomeCanceled})
	}
	return nil
}

// listener is an agent that keeps what it is told.
type listener struct {
	plugin.Agent
	said chan said
	mu   sync.Mutex
	held []plugin.Held
}

func newListener() *listener { return &listener{said: make(chan said, 100)} }

func (l *listener) Claim(_ context.Context, o plugin.Offer) (*plugin.Grant, error) {
	var s said
	if err := json.Unmarshal(o.Runner, &s); err != nil {
		return nil, err
	}
	l.said <- s
	return nil, nil
}

func (l *listener) Discard(context.Context, plugin.DiscardRequest) error { return nil }

func (l *listener) Held(context.Context) ([]plugin.Held, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held, nil
}

func (l *listener) next(t *testing.T) said {
	t.Helper()
	select {
	case s := <-l.said:
		return s
	case <-time.After(2 * time.Minute):
		require.FailNow(t, "the plugin says nothing")
		return said{}
	}
}

type running struct {
	*Host
	l      *listener
	pids   chan int
	cancel context.CancelFunc
	done   chan error
}

// run runs a plugin until the test ends.
func run(t *testing.T, mode string, change ...func(*Options)) *running {
	t.Helper()
	r := &running{l: newListener(), pids: make(chan int, 100), done: make(chan error, 1)}
	o := Options{
		Program: Program{Args: []string{"be-plugin", mode}}, Agent: r.l,
		Settings: plugin.Settings{Host: "h", Slots: []int{1, 2}, Dir: filepath.Join(t.TempDir(), "p")},
		Started:  func(_ plugin.Description, pid int) { r.pids <- pid },
		Restart:  Restart{First: time.Millisecond, Most: 10 * time.Millisecond},
		Log:      hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Info}),
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	r.Host, err = New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if r.done != nil {
			<-r.done
		}
	})
	return r
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	require.NoError(t, r.wait(t))
}

func (r *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done = nil
		return err
	case <-time.After(2 * time.Minute):
		require.FailNow(t, "Run does not end")
		return nil
	}
}

// alive: a process that nobody has waited for yet is as dead as any.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil && strings.Contains(string(b), ") Z ") {
		return false
	}
	return syscall.Kill(pid, 0) == nil
}

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
