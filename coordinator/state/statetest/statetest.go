// Package statetest is the suite that every implementation of state.Store passes.
package statetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// Run tests a store. open opens the one in dir, which may be new.
func Run(t *testing.T, open func(ctx context.Context, dir string) (state.Store, error)) {
	for _, c := range []struct {
		name string
		test func(s *suite, t *testing.T)
	}{
		{"what was applied is read back, also after reopening", (*suite).roundTrip},
		{"a record at another version is refused and nothing is done", (*suite).stale},
		{"the lookups", (*suite).lookups},
		{"what has ended is not live", (*suite).live},
		{"the lineage of what is live is complete", (*suite).lineage},
		{"events", (*suite).events},
		{"seeds, durations, domains and settings", (*suite).small},
		{"payloads", (*suite).payloads},
		{"an open pipeline is live", (*suite).stillOpen},
		{"an empty batch", (*suite).empty},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{open: open, dir: t.TempDir()}
			s.reopen(t)
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			c.test(s, t)
		})
	}
}

type suite struct {
	state.Store
	open func(ctx context.Context, dir string) (state.Store, error)
	dir  string
}

func (s *suite) reopen(t *testing.T) {
	t.Helper()
	if s.Store != nil {
		require.NoError(t, s.Close())
	}
	st, err := s.open(t.Context(), s.dir)
	require.NoError(t, err)
	s.Store = st
}

func (s *suite) apply(t *testing.T, b *state.Batch) {
	t.Helper()
	require.NoError(t, s.Apply(t.Context(), b))
}

// id makes a name of a short one.
func id(n string) snapshot.ID { return snapshot.ID(fmt.Sprintf("%026s", n)) }

// pipeline makes a pipeline with a job and an attempt, all full of values.
func pipeline(n int64, status api.Status) *state.Batch {
	p := &state.Pipeline{
		ID: fmt.Sprintf("P%d", n), Version: 1, Number: n, Project: "p", Key: fmt.Sprintf("key %d", n), KeyHash: "hash",
		Zone: "branch", File: "f", Source: &api.Source{URL: "u", Commit: "c"}, Status: status, CreatedMS: 5,
		Jobs: []string{fmt.Sprintf("J%d", n)}, Events: 3, Problems: []api.Problem{{Line: 1, Text: "x", Warning: true}},
	}
	j := &state.Job{
		ID: p.Jobs[0], Version: 1, Pipeline: p.ID, Index: 0, Status: api.StatusRunning, Code: api.WaitSlot, Reason: "r",
		Def: &state.Def{
			Spec:  api.JobSpec{Name: "build", Script: []string{"x"}, Variables: map[string]string{"A": "1"}},
			Waits: []string{"w"}, Parents: []string{"w"}, Tags: []string{"t"}, AllowCodes: []int{3}, When: "always", Source: true,
		},
		Epoch: 2, Attempts: 2, AttemptID: id("a" + fmt.Sprint(n)), Host: "h", Fixed: true,
		Inputs: []api.Input{{Job: "w", Snapshot: id("in")}}, Output: id("out"), Avoid: []string{"x"}, Infra: 1,
		Placed: api.Placement{Code: api.PlacedOnly, Candidates: []api.Candidate{{Host: "h", Seconds: 0.5}}},
	}
	a := &state.Attempt{
		ID: j.AttemptID, Version: 1, Job: j.ID, Epoch: 2, Number: 2, Host: "h", Stage: state.AttemptRunning,
		StartMS: 7, Workspace: api.Workspace{State: api.StateFull, BytesNeeded: 9}, Finished: true, IsOutput: true,
	}
	return &state.Batch{Pipelines: []*state.Pipeline{p}, Jobs: []*state.Job{j}, Attempts: []*state.Attempt{a}}
}

func (s *suite) roundTrip(t *testing.T) {
	b := pipeline(1, api.StatusRunning)
	x := &state.Snapshot{
		ID: id("out"), Version: 1, Job: "J1", Project: "p", Parents: []snapshot.ID{id("in")}, Packed: true,
		Layer: api.LayerRef{ID: id("out"), Base: id("in"), Index: snapshot.Digest{1}, Manifest: snapshot.Digest{2}, StoredBytes: 3, Durable: true},
	}
	h := &state.Host{Name: "host \"x\"", Version: 1, Agent: id("g"), StoreID: id("s"), State: api.HostReady, Slots: 2, Tags: []string{"a"}}
	b.Snapshots, b.Hosts = []*state.Snapshot{x}, []*state.Host{h}
	s.apply(t, b)
	for range 2 {
		l, err := s.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, b.Pipelines, l.Pipelines)
		require.Equal(t, b.Jobs, l.Jobs)
		require.Equal(t, b.Attempts, l.Attempts)
		require.Equal(t, b.Snapshots, l.Snapshots)
		require.Equal(t, b.Hosts, l.Hosts)
		require.Equal(t, int64(1), l.Number)
		s.reopen(t)
	}
}

func (s *suite) stale(t *testing.T) {
	s.apply(t, pipeline(1, api.StatusRunning))
	_, jobs, err := s.Pipeline(t.Context(), "P1")
	require.NoError(t, err)
	next := *jobs[0]
	next.Version, next.Reason = 2, "second"
	s.apply(t, &state.Batch{Jobs: []*state.Job{&next}})

	late := *jobs[0]
	late.Version, late.Reason = 2, "late"
	event := state.Event{Pipeline: "P1", Event: api.Event{Seq: 1}}
	err = s.Apply(t.Context(), &state.Batch{Jobs: []*state.Job{&late}, Events: []state.Event{event}})
	require.ErrorIs(t, err, state.ErrStale)
	early := next
	early.Version = 5
	require.ErrorIs(t, s.Apply(t.Context(), &state.Batch{Events: []state.Event{event}, Jobs: []*state.Job{&early}}), state.ErrStale)
	for _, b := range []*state.Batch{
		{Snapshots: []*state.Snapshot{{ID: id("x"), Version: 2}}},
		{Hosts: []*state.Host{{Name: "x", Version: 2}}},
		{Attempts: []*state.Attempt{{ID: id("x"), Job: "J1", Version: 2}}},
		{Pipelines: []*state.Pipeline{{ID: "x", Version: 2}}},
		{Attempts: []*state.Attempt{{ID: id("x"), Job: "J1", Epoch: 2, Version: 1}}}, // two attempts of one epoch
		pipeline(1, api.StatusRunning),                                               // there already
	} {
		require.ErrorIs(t, s.Apply(t.Context(), b), state.ErrStale)
	}
	_, jobs, err = s.Pipeline(t.Context(), "P1")
	require.NoError(t, err)
	require.Equal(t, "second", jobs[0].Reason)
	es, err := s.Events(t.Context(), "P1", 0, 10)
	require.NoError(t, err)
	require.Empty(t, es, "what stood beside it in the batch was not done either")
}

func (s *suite) lookups(t *testing.T) {
	for n := range int64(5) {
		b := pipeline(n+1, api.StatusSuccess)
		if n == 2 {
			b.Pipelines[0].Project = "q"
		}
		s.apply(t, b)
	}
	ctx := t.Context()
	p, jobs, err := s.Pipeline(ctx, "P3")
	require.NoError(t, err)
	require.Equal(t, "q", p.Project)
	require.Equal(t, "build", jobs[0].Def.Spec.Name)
	pid, err := s.PipelineID(ctx, 4)
	require.NoError(t, err)
	require.Equal(t, "P4", pid)
	p, err = s.PipelineByKey(ctx, "key 2")
	require.NoError(t, err)
	require.Equal(t, "P2", p.ID)
	ps, err := s.Pipelines(ctx, "", 2)
	require.NoError(t, err)
	require.Equal(t, []string{"P5", "P4"}, names(ps))
	ps, err = s.Pipelines(ctx, "p", 9)
	require.NoError(t, err)
	require.Equal(t, []string{"P5", "P4", "P2", "P1"}, names(ps))
	j, as, err := s.Job(ctx, "J2")
	require.NoError(t, err)
	require.Equal(t, "P2", j.Pipeline)
	require.Len(t, as, 1)
	a, err := s.Attempt(ctx, id("a3"))
	require.NoError(t, err)
	require.Equal(t, "J3", a.Job)

	_, _, err = s.Pipeline(ctx, "P9")
	require.ErrorIs(t, err, state.ErrNotFound)
	_, err = s.PipelineID(ctx, 9)
	require.ErrorIs(t, err, state.ErrNotFound)
	_, err = s.PipelineByKey(ctx, "' OR 1=1 --")
	require.ErrorIs(t, err, state.ErrNotFound)
	_, _, err = s.Job(ctx, "J9")
	require.ErrorIs(t, err, state.ErrNotFound)
	_, err = s.Attempt(ctx, id("zz"))
	require.ErrorIs(t, err, state.ErrNotFound)
	xs, err := s.Snapshots(ctx, []snapshot.ID{id("zz")})
	require.NoError(t, err)
	require.Empty(t, xs)
}

func names(ps []*state.Pipeline) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.ID)
	}
	return out
}

func (s *suite) live(t *testing.T) {
	s.apply(t, pipeline(1, api.StatusRunning))
	s.apply(t, pipeline(2, api.StatusPending))
	s.apply(t, pipeline(3, api.StatusSuccess))
	p, _, err := s.Pipeline(t.Context(), "P1")
	require.NoError(t, err)
	done := *p
	done.Version, done.Status = 2, api.StatusFailed
	s.apply(t, &state.Batch{Pipelines: []*state.Pipeline{&done}})
	l, err := s.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"P2"}, names(l.Pipelines))
	require.Len(t, l.Jobs, 1)
	require.Len(t, l.Attempts, 1)
	require.Equal(t, int64(3), l.Number)
}

func (s *suite) lineage(t *testing.T) {
	b := pipeline(1, api.StatusRunning) // refers to "in" and "out"
	snap := func(name string, base string, parents ...string) {
		x := &state.Snapshot{ID: id(name), Version: 1}
		for _, p := range parents {
			x.Parents = append(x.Parents, id(p))
		}
		if base != "" {
			x.Layer.Base = id(base)
		}
		b.Snapshots = append(b.Snapshots, x)
	}
	snap("in", "", "root")
	snap("root", "older")
	snap("older", "", "root") // a circle must not hang anybody
	snap("out", "in", "in", "missing")
	snap("seed", "", "old")
	snap("old", "")
	snap("orphan", "")
	b.Seeds = []state.Seed{{Project: "p", Job: "j", Number: 1, Snapshot: id("seed")}}
	s.apply(t, b)
	l, err := s.Load(t.Context())
	require.NoError(t, err)
	var got []snapshot.ID
	for _, x := range l.Snapshots {
		got = append(got, x.ID)
	}
	require.ElementsMatch(t, []snapshot.ID{id("in"), id("root"), id("older"), id("out"), id("seed"), id("old")}, got)
}

func (s *suite) events(t *testing.T) {
	b := pipeline(1, api.StatusRunning)
	for n := range int64(5) {
		b.Events = append(b.Events, state.Event{Pipeline: "P1", Event: api.Event{Seq: n + 1, Job: "build", Status: api.StatusQueued, Text: "t"}})
	}
	s.apply(t, b)
	es, err := s.Events(t.Context(), "P1", 2, 2)
	require.NoError(t, err)
	require.Equal(t, []api.Event{b.Events[2].Event, b.Events[3].Event}, es)
	require.Error(t, s.Apply(t.Context(), &state.Batch{Events: b.Events[:1]}), "a number is used once")
}

func (s *suite) small(t *testing.T) {
	seed := func(n int64, job string) state.Seed {
		return state.Seed{Project: "p", Zone: "z", Job: job, Fingerprint: "f", Number: n, Snapshot: id(fmt.Sprint(n))}
	}
	s.apply(t, &state.Batch{
		Seeds:     []state.Seed{seed(2, "a"), seed(1, "a"), seed(1, "b")},
		Durations: []state.Duration{{Project: "p", Job: "a", MS: 1.5, Count: 1}},
		Domains:   []*state.Domain{{Project: "p", Zone: "z", Key: []byte{1, 2}}},
		Meta:      map[string]string{"k": "v"},
	})
	s.apply(t, &state.Batch{
		DropSeeds: []state.Seed{seed(1, "a")},
		Durations: []state.Duration{{Project: "p", Job: "a", MS: 2.5, Count: 2}},
		Meta:      map[string]string{"k": "w"},
	})
	l, err := s.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, []state.Seed{seed(2, "a"), seed(1, "b")}, l.Seeds)
	require.Equal(t, []state.Duration{{Project: "p", Job: "a", MS: 2.5, Count: 2}}, l.Durations)
	require.Equal(t, map[string]string{"k": "w"}, l.Meta)
	require.Equal(t, []*state.Domain{{Project: "p", Zone: "z", Key: []byte{1, 2}}}, l.Domains)
	// A domain's key is never replaced: what it keyed would be lost.
	require.ErrorIs(t, s.Apply(t.Context(), &state.Batch{Domains: []*state.Domain{{Project: "p", Zone: "z", Key: []byte{9}}}}), state.ErrStale)
}

func (s *suite) payloads(t *testing.T) {
	b := pipeline(1, api.StatusRunning)
	b.Jobs[0].Def.External = &state.External{System: "gitlab", ID: 7, Name: "n"}
	b.Jobs[0].Outside = state.Outside{From: []string{"J0"}, Notes: []string{"n"}, Log: []byte("x\n\x00"), Sent: 2, Owed: "why", OwedMS: 3}
	b.Payloads = []state.Payload{{Job: "J1", Sealed: []byte{0, 1, 255}}}
	s.apply(t, b)
	s.reopen(t)
	l, err := s.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, b.Jobs, l.Jobs)
	got, err := s.Payload(t.Context(), "J1")
	require.NoError(t, err)
	require.Equal(t, []byte{0, 1, 255}, got)
	s.apply(t, &state.Batch{Payloads: []state.Payload{{Job: "J1", Sealed: []byte("again")}}})
	got, err = s.Payload(t.Context(), "J1")
	require.NoError(t, err)
	require.Equal(t, "again", string(got))
	require.False(t, (&state.Batch{DropPayloads: []string{"J1"}}).Empty())
	s.apply(t, &state.Batch{DropPayloads: []string{"J1", "J9"}})
	_, err = s.Payload(t.Context(), "J1")
	require.ErrorIs(t, err, state.ErrNotFound)
	require.Error(t, s.Apply(t.Context(), &state.Batch{Payloads: []state.Payload{{Job: "J9", Sealed: []byte("x")}}}), "of no job")
}

func (s *suite) stillOpen(t *testing.T) {
	b := pipeline(1, api.StatusSuccess)
	b.Pipelines[0].Open, b.Pipelines[0].AddedMS = true, 5
	s.apply(t, b)
	l, err := s.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, b.Pipelines, l.Pipelines)
	require.Len(t, l.Jobs, 1)
	closed := *b.Pipelines[0]
	closed.Version, closed.Open = 2, false
	s.apply(t, &state.Batch{Pipelines: []*state.Pipeline{&closed}})
	l, err = s.Load(t.Context())
	require.NoError(t, err)
	require.Empty(t, l.Pipelines)
}

func (s *suite) empty(t *testing.T) {
	require.True(t, (&state.Batch{}).Empty())
	s.apply(t, &state.Batch{})
	l, err := s.Load(t.Context())
	require.NoError(t, err)
	require.Zero(t, l.Number)
}
