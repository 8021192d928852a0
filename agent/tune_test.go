package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

// What is changed while the agent runs holds from then on, and the coordinator hears
// of what it has to know.
func TestTune(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "host-a")
	h.edit = func(o *Options) {
		o.Pool = &api.Pool{System: api.SystemGitLab, Name: "pool", URL: "https://x", Tokens: []string{"t"}, Mode: "optional"}
	}
	var a *Agent
	h.tune = func(made *Agent) { a = made }
	h.start()
	f.wait("it is registered", func() bool { return f.agents["host-a"] != nil })
	a.Tune(Tuning{
		Room: Room{High: 50, Low: 40, MinFree: 7}, Scrub: Scrub{Interval: time.Hour, Rate: 5},
		Pool: &api.Pool{Name: "another", URL: "https://y", Mode: "required", FetchBudgetMS: 9, Durability: "durable"},
	})
	require.Equal(t, 50, a.room().High)
	require.EqualValues(t, 7, a.room().MinFree)
	require.NotNil(t, a.room().Disk)
	require.EqualValues(t, 5, a.scrubbing().Rate)
	f.wait("the coordinator knows", func() bool {
		p := f.agents["host-a"].reg.Pool
		return p.Mode == "required" && p.FetchBudgetMS == 9
	})
	require.Equal(t, &api.Pool{
		System: api.SystemGitLab, Name: "pool", URL: "https://x", Tokens: []string{"t"},
		Mode: "required", Durability: "durable", FetchBudgetMS: 9,
	}, a.pool(), "what needs a restart has not changed")
}
