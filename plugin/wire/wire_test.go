package wire

import (
	"context"
	"crypto/rand"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

// TestMain is a plugin's main, too: tests start their own binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "be-plugin" {
		bePlugin(os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newID(t testing.TB) snapshot.ID {
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	return id
}

// scripted is a plugin.Agent made of functions.
type scripted struct {
	claim   func(ctx context.Context, o plugin.Offer) (*plugin.Grant, error)
	attach  func(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error)
	seal    func(ctx context.Context, s plugin.SealRequest) (*plugin.Sealed, error)
	discard func(ctx context.Context, d plugin.DiscardRequest) error
	held    func(ctx context.Context) ([]plugin.Held, error)

	mu        sync.Mutex
	discarded []plugin.DiscardRequest
}

func (s *scripted) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	return s.claim(ctx, o)
}

func (s *scripted) Attach(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
	return s.attach(ctx, id, progress)
}

func (s *scripted) Seal(ctx context.Context, r plugin.SealRequest) (*plugin.Sealed, error) {
	return s.seal(ctx, r)
}

func (s *scripted) Discard(ctx context.Context, d plugin.DiscardRequest) error {
	s.mu.Lock()
	s.discarded = append(s.discarded, d)
	s.mu.Unlock()
	if s.discard == nil {
		return nil
	}
	return s.discard(ctx, d)
}

func (s *scripted) Held(ctx context.Context) ([]plugin.Held, error) { return s.held(ctx) }

func (s *scripted) discards() []plugin.DiscardRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]plugin.DiscardRequest(nil), s.discarded...)
}

// connect serves an agent without a process between.
func connect(t testing.TB, a plugin.Agent) (wirepb.AgentClient, *grpc.ClientConn) {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	srv := newServer([]grpc.ServerOption{grpc.WaitForHandlers(true)})
	wirepb.RegisterAgentServer(srv, &agentServer{agent: a})
	go func() { _ = srv.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:x", dialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
	})
	return wirepb.NewAgentClient(conn), conn
}

func dial(t testing.TB, a plugin.Agent) plugin.Agent {
	pb, _ := connect(t, a)
	return &agentClient{pb}
}

func within(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(2 * time.Minute):
		require.FailNow(t, "never: "+what)
	}
}
