package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

// orphanGrace is how long Serve may still take once the agent has gone.
const orphanGrace = 10 * time.Second

// pluginServer serves a plugin.Plugin to the agent. It runs in the plugin's process.
type pluginServer struct {
	wirepb.UnimplementedPluginServer
	plugin plugin.Plugin
	broker *goplugin.GRPCBroker
	orphan func() // called when the agent has gone and Serve has returned, or won't

	mu      sync.Mutex
	served  bool
	stop    context.CancelFunc // ends Serve
	stopped bool               // Stop may overtake Serve on the way
	serving chan struct{}      // closed when Serve has returned; nil: it was not called
	goodbye bool               // the agent has said that it goes
}

func (s *pluginServer) Describe(ctx context.Context, _ *wirepb.DescribeRequest) (*wirepb.DescribeResponse, error) {
	d, err := s.plugin.Describe(ctx)
	if err != nil {
		return nil, encode(err)
	}
	if d.Contract == 0 {
		d.Contract = plugin.Contract
	}
	_, runs := s.plugin.(plugin.Runner)
	return &wirepb.DescribeResponse{
		Name: clean(d.Name), Version: clean(d.Version), Contract: int32(min(d.Contract, 1<<30)), Runs: runs,
	}, nil
}

func (s *pluginServer) Serve(ctx context.Context, req *wirepb.ServeRequest) (*wirepb.ServeResponse, error) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	if err := s.begin(cancel, done); err != nil {
		return nil, encode(err)
	}
	defer close(done)
	// ctx ends without Stop when the connection breaks.
	defer context.AfterFunc(ctx, s.gone)()
	conn, err := s.broker.DialWithOptions(req.GetAgent(), dialOptions())
	if err != nil {
		return nil, encode(fmt.Errorf("call the agent back: %w", err))
	}
	defer func() { _ = conn.Close() }()
	err = s.plugin.Serve(inner, settingsFromPB(req), &agentClient{wirepb.NewAgentClient(conn)})
	if err != nil && !(inner.Err() != nil && errors.Is(err, context.Canceled)) {
		return nil, encode(err)
	}
	return &wirepb.ServeResponse{}, nil
}

// gone is called when the agent can't be talked to any more.
func (s *pluginServer) gone() {
	s.mu.Lock()
	done := s.serving
	s.mu.Unlock()
	if done != nil {
		select {
		case <-done:
		case <-time.After(orphanGrace):
		}
	}
	s.orphan()
}

func (s *pluginServer) begin(stop context.CancelFunc, serving chan struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.served {
		return invalid("serve is called once in the life of a process")
	}
	s.served, s.stop, s.serving = true, stop, serving
	if s.stopped {
		stop()
	}
	return nil
}

func (s *pluginServer) Stop(context.Context, *wirepb.StopRequest) (*wirepb.StopResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.stop != nil {
		s.stop()
	}
	return &wirepb.StopResponse{}, nil
}

func (s *pluginServer) Lost(ctx context.Context, req *wirepb.LostRequest) (*wirepb.LostResponse, error) {
	id, err := snapshot.ParseID(req.GetAttempt())
	if err != nil {
		return nil, encode(invalid("attempt: %w", err))
	}
	if err := s.plugin.Lost(ctx, id, req.GetWhy()); err != nil {
		return nil, encode(err)
	}
	return &wirepb.LostResponse{}, nil
}
