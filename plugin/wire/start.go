package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/roost-ci/roost/plugin"
)

// startTimeout is how long a program may take to say where it listens, and who it is.
const startTimeout = 30 * time.Second

// ErrContract says that a program is a plugin, but not for this version of Roost.
var ErrContract = errors.New("plugin of another version of the contract")

// Command is a program to be started as a plugin.
type Command struct {
	Path string   // absolute
	Args []string // with the program's name as its first
	// Env is its whole environment besides what the contract puts there.
	Env []string
	Dir string // its working directory
	// Sockets is a directory for sockets; they and what else is made there are removed when it has
	// ended. "": the system's directory for temporary files.
	Sockets string
	// User, if set, is whom it runs as. Sockets must lie where that user may pass. Not on Windows.
	User *User
	// Log gets the lines that the plugin logs. Nil: nowhere.
	Log hclog.Logger
}

// User is a user of this system, with one group.
type User struct{ UID, GID uint32 }

// Process is a plugin that runs.
type Process struct {
	Plugin      plugin.Plugin
	Description plugin.Description
	client      *goplugin.Client
	sockets     string // made by go-plugin, which forgets it if the program can't be started
	proc        *process
}

// Start starts a plugin and asks who it is. ctx bounds the start alone; the process
// lasts until Kill, or until it ends by itself.
func Start(ctx context.Context, c Command) (*Process, error) {
	if c.Log == nil {
		c.Log = hclog.NewNullLogger()
	}
	attr, err := attributes(c.User)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", c.Args[0], err)
	}
	sockets := &goplugin.UnixSocketConfig{TempDir: c.Sockets}
	if c.User != nil {
		sockets.Group = strconv.FormatUint(uint64(c.User.GID), 10)
	}
	cmd := &exec.Cmd{Path: c.Path, Args: c.Args, Env: c.Env, Dir: c.Dir, SysProcAttr: attr}
	proc, err := newProcess(cmd)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", c.Args[0], err)
	}
	p := &Process{proc: proc}
	p.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{plugin.Contract: {pluginName: &glue{}}},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, sockets string) (runner.Runner, error) {
			p.sockets = sockets
			cmd.Env = append(cmd.Env, spec.Env...)
			return proc, nil
		},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		GRPCDialOptions:  []grpc.DialOption{dialOptions()},
		StartTimeout:     startTimeout,
		UnixSocketConfig: sockets,
		Logger:           c.Log,
	})
	stop := context.AfterFunc(ctx, func() { _ = proc.kill() })
	err = p.connect(ctx)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("plugin %s: %w", c.Args[0], explain(err))
	}
	return p, nil
}

func (p *Process) connect(ctx context.Context) error {
	rpc, err := p.client.Client()
	if err != nil {
		return err
	}
	raw, err := rpc.Dispense(pluginName)
	if err != nil {
		return err
	}
	p.Plugin = raw.(plugin.Plugin)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if p.Description, err = p.Plugin.Describe(ctx); err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if p.Description.Contract != plugin.Contract {
		return fmt.Errorf("%w: it speaks %d, this program speaks %d", ErrContract, p.Description.Contract, plugin.Contract)
	}
	return nil
}

// explain makes go-plugin's errors ones that people and callers understand.
func explain(err error) error {
	text := clean(err.Error())
	switch {
	case strings.Contains(text, "Incompatible API version") || strings.Contains(text, "incompatible API version"):
		return fmt.Errorf("%w: this program speaks %d: %s", ErrContract, plugin.Contract, text)
	case strings.Contains(text, "Unrecognized remote plugin message"), strings.Contains(text, "exited before we could connect"):
		first, _, _ := strings.Cut(strings.TrimPrefix(text, "Unrecognized remote plugin message: "), "\n")
		return fmt.Errorf("it does not begin as a plugin of Roost does (its log may say why): %.200q", first)
	}
	return err
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.proc.os.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.proc.gone }

// Exit says how the process ended. It is valid after Done.
func (p *Process) Exit() string {
	if st := p.proc.cmd.ProcessState; st != nil {
		return st.String()
	}
	return "never started"
}

// Kill lets a process that serves nothing any more end by itself for a moment, then
// kills it, and waits until it is gone. What it started is not touched. It may be repeated.
func (p *Process) Kill() {
	p.client.Kill()
	if p.sockets != "" {
		_ = os.RemoveAll(p.sockets) // it is gone already, or nobody will miss it
	}
}

// KillNow kills it without a moment; Kill must still be called.
func (p *Process) KillNow() { _ = p.proc.kill() }
