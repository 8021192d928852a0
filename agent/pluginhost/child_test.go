//go:build unix

package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

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
