package wire

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// shutdownMethod is how go-plugin's client says goodbye, before the connection ends.
const shutdownMethod = "/plugin.GRPCController/Shutdown"

// connections tells a plugin of the end of its agent's connection. A call would see it only
// while it is under way, and Serve may return at the same moment, because calls to the agent
// fail: then nobody would notice, and the process would stay.
type connections struct{ srv *pluginServer }

// HandleConn implements stats.Handler.
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, end := s.(*stats.ConnEnd); !end {
		return
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	if !c.srv.goodbye {
		go c.srv.gone()
	}
}

// TagConn implements stats.Handler.
func (*connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// TagRPC implements stats.Handler.
func (*connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (*connections) HandleRPC(context.Context, stats.RPCStats) {}

// hearsGoodbye notes that the agent ends this process, and has not gone.
func (s *pluginServer) hearsGoodbye(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if info.FullMethod == shutdownMethod {
		s.mu.Lock()
		s.goodbye = true
		s.mu.Unlock()
	}
	return handler(ctx, req)
}
