package wire

import (
	"context"
	"time"

	"google.golang.org/grpc"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

// lastCalls bounds how long Serve waits, once the plugin has stopped serving, for the
// agent's side of calls that the plugin does not wait for any more.
const lastCalls = 10 * time.Second

// pluginClient is a plugin.Plugin in another process. It lives in the agent's.
type pluginClient struct {
	pb     wirepb.PluginClient
	runs   wirepb.RunnerClient // answered by a plugin.Runner alone
	broker *goplugin.GRPCBroker
}

func (c *pluginClient) Describe(ctx context.Context) (plugin.Description, error) {
	d, err := c.pb.Describe(ctx, &wirepb.DescribeRequest{})
	if err != nil {
		return plugin.Description{}, decode(err)
	}
	return plugin.Description{Name: d.GetName(), Version: d.GetVersion(), Contract: int(d.GetContract()), Runs: d.GetRuns()}, nil
}

// Serve returns when the plugin has stopped serving, or has died. When ctx ends, the
// plugin is asked to stop; how long it may take is for the caller to decide, who can kill it.
// No call of a's is left, within lastCalls.
func (c *pluginClient) Serve(ctx context.Context, s plugin.Settings, a plugin.Agent) error {
	id := c.broker.NextId()
	req, err := settingsToPB(s, id)
	if err != nil {
		return err
	}
	servers := make(chan *grpc.Server, 1)
	var server *grpc.Server
	go c.broker.AcceptAndServe(id, func(opts []grpc.ServerOption) *grpc.Server {
		srv := newServer(append(opts, grpc.WaitForHandlers(true)))
		wirepb.RegisterAgentServer(srv, &agentServer{agent: a})
		servers <- srv
		return srv
	})
	stop := context.AfterFunc(ctx, func() {
		// If this fails there is nobody left to stop.
		_, _ = c.pb.Stop(context.WithoutCancel(ctx), &wirepb.StopRequest{})
	})
	defer stop()
	_, err = c.pb.Serve(context.WithoutCancel(ctx), req)
	select {
	case server = <-servers:
		c.end(server)
	default: // it could not listen
	}
	return decode(err)
}

func (c *pluginClient) end(server *grpc.Server) {
	ended := make(chan struct{})
	go func() {
		server.Stop() // waits for handlers
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(lastCalls):
	}
}

func (c *pluginClient) Lost(ctx context.Context, id snapshot.ID, why string) error {
	_, err := c.pb.Lost(ctx, &wirepb.LostRequest{Attempt: string(id), Why: clean(why)})
	return decode(err)
}
