package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

// bePlugin is what the tests' own binary does when it is started as a plugin.
func bePlugin(mode string) {
	switch mode {
	case "garbage":
		fmt.Println("hello, my token is " + strings.Repeat("x", 5000))
	case "exits":
		os.Exit(7)
	case "hangs":
		time.Sleep(time.Hour)
	case "version 2": // a plugin of a later Roost
		goplugin.Serve(&goplugin.ServeConfig{
			HandshakeConfig:  handshake(),
			VersionedPlugins: map[int]goplugin.PluginSet{2: {pluginName: &glue{server: &pluginServer{}}}},
			GRPCServer:       newServer, Logger: hclog.NewNullLogger(),
		})
	default:
		Main(&probe{mode: mode})
	}
}

// probe is a plugin for the tests below.
type probe struct{ mode string }

func (p *probe) Describe(context.Context) (plugin.Description, error) {
	d := plugin.Description{Name: "probe", Version: "1"}
	switch p.mode {
	case "describes 2":
		d.Contract = 2
	case "can't describe":
		return d, errors.New("no idea who I am")
	}
	return d, nil
}

func (p *probe) Serve(ctx context.Context, s plugin.Settings, a plugin.Agent) error {
	switch p.mode {
	case "logs":
		Logger().Warn("a warning", "slots", len(s.Slots))
		fmt.Println("printed")
		fmt.Fprintln(os.Stderr, "printed")
	case "fails":
		return &plugin.Error{Code: "PORT", Text: fmt.Sprintf("%s has %s, %v, %s", s.Host, s.Dir, s.Slots, s.Config)}
	case "panics":
		panic("oh no")
	}
	g, err := a.Claim(ctx, plugin.Offer{Slot: 1})
	if err != nil || g == nil {
		return err
	}
	if _, err := a.Seal(ctx, plugin.SealRequest{Attempt: g.Attempt, Run: time.Duration(len(g.Payload))}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (p *probe) Lost(_ context.Context, id snapshot.ID, why string) error {
	return fmt.Errorf("%s %s: %w", id, why, plugin.ErrUnavailable)
}

func command(mode string) Command {
	return Command{Path: os.Args[0], Args: []string{"probe", "be-plugin", mode}}
}

func start(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := Start(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	return p
}

func TestProcess(t *testing.T) {
	sealed := make(chan struct{})
	s := &scripted{
		claim: func(context.Context, plugin.Offer) (*plugin.Grant, error) {
			return &plugin.Grant{Attempt: newID(t), Payload: make([]byte, MaxPayload)}, nil
		},
		seal: func(_ context.Context, r plugin.SealRequest) (*plugin.Sealed, error) {
			require.EqualValues(t, MaxPayload, r.Run)
			close(sealed)
			return &plugin.Sealed{}, nil
		},
	}
	dir := t.TempDir()
	c := command("")
	c.Sockets = dir
	p := start(t, c)
	require.Equal(t, plugin.Description{Name: "probe", Version: "1", Contract: plugin.Contract}, p.Description)
	require.Positive(t, p.Pid())
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- p.Plugin.Serve(ctx, plugin.Settings{Slots: []int{1}}, s) }()
	within(t, "it seals", sealed)
	id := newID(t)
	err := p.Plugin.Lost(t.Context(), id, "gone")
	require.ErrorIs(t, err, plugin.ErrUnavailable)
	require.EqualError(t, err, string(id)+" gone: not available now")
	err = p.Plugin.Serve(t.Context(), plugin.Settings{}, s)
	require.ErrorIs(t, err, plugin.ErrInvalid, "a second time")
	cancel()
	require.NoError(t, <-served)
	p.Kill()
	p.Kill()
	within(t, "it ends", p.Done())
	require.Equal(t, "exit status 0", p.Exit())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestStopOvertakes: Serve and Stop are two calls, and the second may arrive first.
func TestStopOvertakes(t *testing.T) {
	for range 5 {
		p := start(t, command(""))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, p.Plugin.Serve(ctx, plugin.Settings{}, &scripted{
			claim: func(ctx context.Context, _ plugin.Offer) (*plugin.Grant, error) { <-ctx.Done(); return nil, nil },
		}))
		p.Kill()
	}
}

func TestServeFails(t *testing.T) {
	p := start(t, command("fails"))
	err := p.Plugin.Serve(t.Context(), plugin.Settings{Host: "h", Dir: "/d", Slots: []int{4, 5}, Config: []byte("{}")}, &scripted{})
	require.EqualError(t, err, "h has /d, [4 5], {}")
	var coded *plugin.Error
	require.ErrorAs(t, err, &coded)
	require.Equal(t, "PORT", coded.Code)
}

func TestDies(t *testing.T) {
	p := start(t, command("panics"))
	err := p.Plugin.Serve(t.Context(), plugin.Settings{}, &scripted{})
	require.ErrorIs(t, err, plugin.ErrUnavailable)
	within(t, "it ends", p.Done())
	require.Equal(t, "exit status 2", p.Exit())

	// The agent's side of its calls ends, too.
	began, ended := make(chan struct{}), make(chan struct{})
	p = start(t, command(""))
	go func() {
		<-began
		p.KillNow()
	}()
	err = p.Plugin.Serve(t.Context(), plugin.Settings{}, &scripted{claim: func(ctx context.Context, _ plugin.Offer) (*plugin.Grant, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, nil
	}})
	require.ErrorIs(t, err, plugin.ErrUnavailable)
	select {
	case <-ended:
	default:
		require.Fail(t, "Serve returned while a call was still being answered")
	}
}

// TestOrphan: the agent's connection breaks, and the plugin has nobody left to work for.
func TestOrphan(t *testing.T) {
	p := start(t, command(""))
	began := make(chan struct{})
	go func() {
		<-began
		rpc, err := p.client.Client()
		if err == nil {
			_ = rpc.(*goplugin.GRPCClient).Conn.Close()
		}
	}()
	err := p.Plugin.Serve(t.Context(), plugin.Settings{}, &scripted{claim: func(ctx context.Context, _ plugin.Offer) (*plugin.Grant, error) {
		close(began)
		<-ctx.Done()
		return nil, nil
	}})
	require.Error(t, err)
	within(t, "it ends by itself", p.Done())
	require.Equal(t, "exit status 1", p.Exit())
}

func TestNotAPlugin(t *testing.T) {
	for mode, want := range map[string]string{
		"garbage":        "does not begin as a plugin of Roost",
		"exits":          "does not begin as a plugin of Roost",
		"version 2":      ErrContract.Error(),
		"describes 2":    ErrContract.Error() + ": it speaks 2, this program speaks 1",
		"can't describe": "describe: no idea who I am",
	} {
		_, err := Start(t.Context(), command(mode))
		require.ErrorContains(t, err, want, mode)
		require.Less(t, len(err.Error()), 1000)
		require.Equal(t, strings.Contains(want, ErrContract.Error()), errors.Is(err, ErrContract), mode)
	}
	dir := t.TempDir()
	_, err := Start(t.Context(), Command{Path: filepath.Join(dir, "none"), Args: []string{"none"}, Sockets: dir})
	require.ErrorIs(t, err, os.ErrNotExist)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestStartIsStopped: ctx ends while a program says nothing.
func TestStartIsStopped(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := Start(ctx, command("hangs"))
	require.Error(t, err)
	require.Less(t, time.Since(begin), startTimeout*3/4)
}

func TestByHand(t *testing.T) {
	cmd := exec.Command(os.Args[0], "be-plugin", "")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 2, cmd.ProcessState.ExitCode())
	require.Contains(t, string(out), "started by roost's agent")
}

func TestLogs(t *testing.T) {
	var log testenv.Buffer
	c := command("logs")
	c.Log = hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info})
	p := start(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// It may claim before it hears that it is to stop.
	require.NoError(t, p.Plugin.Serve(ctx, plugin.Settings{Slots: []int{1}}, &scripted{
		claim: func(ctx context.Context, _ plugin.Offer) (*plugin.Grant, error) { <-ctx.Done(); return nil, nil },
	}))
	p.Kill()
	require.Contains(t, log.String(), "[WARN]")
	require.Contains(t, log.String(), "a warning")
	require.Contains(t, log.String(), "slots=1")
	require.NotContains(t, log.String(), "printed")
}

// TestStrangers: the socket is the agent's alone.
func TestStrangers(t *testing.T) {
	c := command("")
	c.Sockets = t.TempDir()
	start(t, c)
	var socket string
	require.NoError(t, filepath.Walk(c.Sockets, func(path string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode()&os.ModeSocket != 0 {
			socket = path
		}
		return err
	}))
	require.NotEmpty(t, socket)
	fi, err := os.Stat(filepath.Dir(socket))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
	raw, err := net.Dial("unix", socket)
	require.NoError(t, err)
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err = conn.Handshake(); err == nil { // TLS 1.3: the refusal comes with the first byte
		_, err = conn.Read(make([]byte, 1))
	}
	require.ErrorContains(t, err, "certificate required")
}

// TestGRPCServerNeedsAPlugin: the agent's half of the glue serves nothing.
func TestGRPCServerNeedsAPlugin(t *testing.T) {
	require.Error(t, (&glue{}).GRPCServer(nil, grpc.NewServer()))
}

func TestLostChecksIDs(t *testing.T) {
	s := &pluginServer{plugin: &probe{}}
	_, err := s.Lost(t.Context(), &wirepb.LostRequest{Attempt: "../x"})
	require.ErrorIs(t, decode(err), plugin.ErrInvalid)
}
