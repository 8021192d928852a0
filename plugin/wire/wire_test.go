package wire

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// TestMain is a plugin's main, too: tests start their own binary.
func TestMain(m *testing.M) {
	if mode := os.Getenv("WIRE_TEST"); mode != "" {
		beAPlugin(mode)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func beAPlugin(mode string) {
	Main(echo{})
}

type echo struct{}

func (echo) Describe(context.Context) (plugin.Description, error) {
	return plugin.Description{Name: "echo", Version: "1"}, nil
}

func (echo) Serve(ctx context.Context, s plugin.Settings, a plugin.Agent) error {
	g, err := a.Claim(ctx, plugin.Offer{Slot: s.Slots[0], Runner: s.Config})
	if err != nil {
		return err
	}
	if g != nil {
		_ = a.Discard(ctx, plugin.DiscardRequest{Attempt: g.Attempt, Outcome: plugin.OutcomeFailed, Reason: string(g.Payload)})
	}
	<-ctx.Done()
	return nil
}

func (echo) Lost(_ context.Context, id snapshot.ID, why string) error {
	return nil
}

type nobody struct{ plugin.Agent }

func (nobody) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	<-ctx.Done()
	return nil, nil
}

func TestThin(t *testing.T) {
	p, err := Start(t.Context(), Command{Path: os.Args[0], Args: []string{"echo"}, Env: []string{"WIRE_TEST=x"}})
	require.NoError(t, err)
	defer p.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.NoError(t, p.Plugin.Serve(ctx, plugin.Settings{Slots: []int{1}}, nobody{}))
	p.Kill()
	<-p.Done()
	require.Equal(t, "exit status 0", p.Exit())
}
