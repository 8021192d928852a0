// Package wire carries the contract of package plugin between two processes: go-plugin
// starts the one and lets both call each other by gRPC, over Unix sockets, with
// certificates made for this one process. A plugin's main calls Main; an agent calls
// Start. plugin.proto is the same for other languages; wirepb is made from it by `make
// generate`.
package wire

import (
	"google.golang.org/grpc"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/roost-ci/roost/plugin"
)

// MaxPayload is how many bytes a job's payload may have.
const MaxPayload = 16 << 20

// maxMessage bounds a message: a payload, and what goes with it.
const maxMessage = 24 << 20

// The cookie is no secret. It tells a plugin that was started by hand from one that
// an agent started.
const (
	cookieKey   = "ROOST_PLUGIN"
	cookieValue = "2f2a8c1e5d0b4d6c"
)

// pluginName is the name in go-plugin's table, which has this one entry.
const pluginName = "roost"

func handshake() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{
		ProtocolVersion: plugin.Contract, MagicCookieKey: cookieKey, MagicCookieValue: cookieValue,
	}
}

func newServer(opts []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))...)
}

func dialOptions() grpc.DialOption {
	return grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))
}
