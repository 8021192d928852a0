package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
)

// idle is how long a plugin waits for the agent's call of Serve before it takes the agent for dead.
const idle = time.Minute

// stderr is the log's way to the agent. go-plugin replaces os.Stderr later on.
var stderr = os.Stderr

// Logger returns a logger for a plugin: what it logs stands in the agent's log. A
// job's payload, its variables and tokens never belong there. What a plugin writes to
// standard output goes nowhere.
func Logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: stderr, JSONFormat: true})
}

// Main is the main function of a plugin: it serves p to the agent that started this
// process and returns when the agent has no more use for it. The process should end
// then. It exits by itself when the agent has gone, and when no agent started it.
func Main(p plugin.Plugin) {
	if os.Getenv(cookieKey) != cookieValue {
		fmt.Fprintln(os.Stderr, "This is a plugin of Roost. It is started by roost's agent, never by hand.")
		os.Exit(2)
	}
	log := Logger()
	// ^C at a terminal, or systemd's stop, reach all processes of the agent's group; the agent says
	// when a plugin ends. Not ignored, so that children of the plugin have the defaults.
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, os.Interrupt, syscall.SIGTERM)
	go func() {
		for s := range ignored {
			log.Debug("signal: the agent decides", "signal", s.String())
		}
	}()
	srv := &pluginServer{plugin: p, orphan: func() {
		log.Warn("the agent has gone")
		os.Exit(1)
	}}
	time.AfterFunc(idle, func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		if !srv.served {
			log.Error("the agent never asked to serve")
			os.Exit(1)
		}
	})
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{plugin.Contract: {pluginName: &glue{server: srv}}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return newServer(append(opts, grpc.StatsHandler(&connections{srv: srv}), grpc.UnaryInterceptor(srv.hearsGoodbye)))
		},
		Logger: log.Named("go-plugin").With(),
	})
}

// glue is what go-plugin wants to have of each side.
type glue struct {
	goplugin.NetRPCUnsupportedPlugin
	server *pluginServer // in the plugin
}

// GRPCServer implements goplugin.GRPCPlugin.
func (g *glue) GRPCServer(b *goplugin.GRPCBroker, s *grpc.Server) error {
	if g.server == nil {
		return errors.New("not a plugin's side")
	}
	g.server.broker = b
	wirepb.RegisterPluginServer(s, g.server)
	if r, ok := g.server.plugin.(plugin.Runner); ok {
		wirepb.RegisterRunnerServer(s, &runnerServer{runner: r})
	}
	return nil
}

// GRPCClient implements goplugin.GRPCPlugin.
func (g *glue) GRPCClient(_ context.Context, b *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &pluginClient{pb: wirepb.NewPluginClient(conn), runs: wirepb.NewRunnerClient(conn), broker: b}, nil
}
