package coordinator

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

// BenchmarkJobs measures whole lives of jobs, from the claim to the durable end,
// over HTTP on loopback: four durable steps for each.
func BenchmarkJobs(b *testing.B) {
	for _, hosts := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) { benchJobs(b, hosts) })
	}
}

func benchJobs(b *testing.B, hosts int) {
	s, err := Open(b.Context(), Options{Dir: b.TempDir(), AgentToken: agentToken, UserToken: userToken})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	user, err := api.NewClient(s.URL(), userToken, nil)
	require.NoError(b, err)
	agent, err := api.NewClient(s.URL(), agentToken, nil)
	require.NoError(b, err)

	const per = 100
	left := make(chan struct{}, b.N+per)
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			r := api.Register{Name: fmt.Sprint(i), StoreID: newID(b), Session: newID(b), Slots: 1, Fingerprint: "x"}
			got, err := agent.Register(ctx, r)
			for err == nil && ctx.Err() == nil {
				var cs *api.Claims
				if cs, err = agent.Claims(ctx, got.Agent, api.ClaimRequest{Session: r.Session, FreeSlots: 1, WaitMS: 1000}); err != nil {
					return
				}
				for _, c := range cs.Claims {
					if agent.Accept(ctx, ref(c)) != nil || agent.Start(ctx, ref(c), api.Start{}) != nil {
						continue
					}
					f := api.Finish{Status: api.StatusSuccess, Output: newID(b), Parents: ids(c)}
					if _, err := agent.Finish(ctx, ref(c), f); err == nil {
						left <- struct{}{}
					}
				}
			}
		})
	}
	b.ResetTimer()
	for n := 0; n < b.N; n += per {
		_, err := user.Submit(ctx, fmt.Sprint(n), api.Submit{Project: "p", File: "f", Text: fmt.Sprintf("x:\n  script: x\n  parallel: %d\n", per)})
		require.NoError(b, err)
	}
	for range b.N {
		<-left
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	cancel()
	wg.Wait()
}
