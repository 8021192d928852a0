package coordinator

import (
	"context"
	"fmt"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
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

// One GitLab job after the other through one host: asked for, stored, placed, claimed,
// run and ended.
func BenchmarkGitLabJob(b *testing.B) {
	l := &lab{jobs: map[int64]*labJob{}}
	l.http = httptest.NewServer(l)
	defer l.http.Close()
	s, err := Open(b.Context(), Options{
		Dir: b.TempDir(), AgentToken: agentToken, UserToken: userToken, GitLabURLs: []string{l.http.URL},
		tune: func(o *gitlab.Options) { o.Interval = 5 * time.Millisecond },
	})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c, err := api.NewClient(s.URL(), agentToken, nil)
	require.NoError(b, err)
	h := &host{c: c, free: 1, reg: api.Register{
		Name: "host-a", StoreID: newID(b), Session: newID(b), Slots: 1, Driver: "copy", Fingerprint: "f", Pool: l.pool(),
	}}
	r, err := c.Register(ctx, h.reg)
	require.NoError(b, err)
	b.ResetTimer()
	for i := range b.N {
		l.add(int64(i+1), "job", "one", func(p map[string]any) {
			p["job_info"].(map[string]any)["pipeline_id"] = i / 20
			p["dependencies"] = []any{}
		})
		cs, err := c.Claims(ctx, r.Agent, h.offers(20*time.Second))
		require.NoError(b, err)
		require.Len(b, cs.Claims, 1)
		require.NoError(b, c.Accept(ctx, ref(cs.Claims[0])))
		_, err = c.Finish(ctx, ref(cs.Claims[0]), api.Finish{Status: api.StatusSuccess, Code: api.SealNever})
		require.NoError(b, err)
	}
	b.StopTimer()
	cancel()
	require.NoError(b, <-done)
}
