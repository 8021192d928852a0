package coordinator

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// Everything that was acknowledged is there after a restart, and goes on.
func TestRestart(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 2)
	b.submit(linear)
	h.drive(nil) // leaves a seed
	p := b.submit(`
stages: [one, two]
build: {stage: one, script: x}
other: {stage: one, script: x}
third: {stage: one, script: x}
test: {stage: two, script: x}
`)
	cs := h.claims(2)
	require.Equal(t, api.OriginSeed, cs[0].Origin)
	h.begin(cs[0])
	out := h.succeed(cs[0])
	h.upload(out, "", 77)
	h.begin(cs[1])
	_, err := h.c.AppendLog(t.Context(), ref(cs[1]), 0, []byte("before "))
	require.NoError(t, err)
	third := h.claim()
	before, err := b.user.Pipeline(t.Context(), p.ID)
	require.NoError(t, err)
	events, err := b.user.Events(t.Context(), p.ID, 0, 0)
	require.NoError(t, err)

	b.restart()
	after, err := b.user.Pipeline(t.Context(), p.ID)
	require.NoError(t, err)
	require.Equal(t, before, after)
	got, err := b.user.Events(t.Context(), p.ID, 0, 0)
	require.NoError(t, err)
	require.Equal(t, events, got)

	// The host has to register again, which gives it the agent that it had.
	h.c = b.client(agentToken)
	_, err = h.c.Heartbeat(t.Context(), h.id, api.Heartbeat{Session: h.reg.Session})
	requireCode(t, err, 404, api.CodeNotFound)
	h.reg.Holdings = []api.Holding{{ID: out}}
	h.reg.Attempts = []api.AttemptRef{ref(cs[1])}
	was := h.id
	require.Empty(t, h.register().Ended)
	require.Equal(t, was, h.id)

	// A running attempt goes on with its log where it was.
	_, err = h.c.AppendLog(t.Context(), ref(cs[1]), 0, []byte("before after"))
	require.NoError(t, err)
	log, err := b.user.Log(t.Context(), cs[1].Attempt, 0, 0)
	require.NoError(t, err)
	require.Equal(t, "before after", string(log.Data))
	require.False(t, log.Ended)
	// One that was not accepted is told again, with the same token.
	again := h.claim()
	require.Equal(t, third.Attempt, again.Attempt)
	require.Equal(t, third.Token, again.Token)
	require.Equal(t, third.DomainKey, again.DomainKey)
	h.begin(again)
	third2 := h.succeed(again)
	other := h.succeed(cs[1])
	c := h.claim()
	require.Equal(t, []snapshot.ID{out, other, third2}, ids(c))
	require.Equal(t, int64(77), c.Layers[0].StoredBytes)
	h.begin(c)
	h.succeed(c)
	require.Equal(t, api.StatusSuccess, b.status(p))
	require.Equal(t, int64(3), b.submit(single).Number)
}

// A host that does not come back after a restart loses its job when its new lease
// ends, not before.
func TestRestartLease(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(single)
	h.begin(h.claim())
	b.advance(28 * time.Second)
	b.restart()
	b.advance(28 * time.Second)
	require.Equal(t, api.StatusRunning, b.job(p, "job").Status)
	b.advance(4 * time.Second)
	require.Equal(t, api.StatusQueued, b.job(p, "job").Status)
	require.Equal(t, api.WaitHost, b.job(p, "job").Code)
}

// A layer whose snapshot is out of the picture is still known when its facts come.
func TestLateFacts(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	b.submit(single)
	h.drive(map[string]int{"nothing": 0})
	p := b.submit("x:\n  script: x\nbad:\n  script: x\n")
	c := h.claim()
	h.begin(c)
	out := h.succeed(c)
	h.drive(map[string]int{"bad": 1, "x": 1})
	b.restart()
	h.register()
	h.upload(out, "", 5)
	h.upload(out, "", 5)
	require.True(t, b.job(p, c.Job.Name).Layer.Durable)
	bad := api.LayerRef{ID: out, StoredBytes: 5}
	bad.Index[0], bad.Manifest[0] = 9, 9
	requireCode(t, h.c.PutSnapshot(t.Context(), bad), 409, api.CodeConflict)
}

// Facts may come before the finish that names the snapshot.
func TestEarlyFacts(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(single)
	c := h.claim()
	h.begin(c)
	out := newID(t)
	h.upload(out, "", 5)
	got, err := h.end(c, api.Finish{Status: api.StatusSuccess, Output: out})
	require.NoError(t, err)
	require.True(t, got.Output)
	require.True(t, b.job(p, "job").Layer.Durable)
}

// What nothing refers to leaves the memory, and only that.
func TestForgetSnapshots(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	var outs []snapshot.ID
	for range 6 {
		b.submit(single)
		outs = append(outs, h.run("job"))
	}
	orphan := newID(t)
	h.upload(orphan, "", 1)
	for range 61 {
		b.advance(10 * time.Second)
		h.beat()
	}
	b.s.mu.RLock()
	defer b.s.mu.RUnlock()
	require.NotContains(t, b.s.world.snapshots, orphan)
	for _, o := range outs {
		require.Contains(t, b.s.world.snapshots, o, "each is an ancestor of the newest seed")
	}
	require.Empty(t, b.s.world.pipelines)
	require.Empty(t, b.s.world.jobs)
	require.Empty(t, b.s.world.attempts)
	require.Empty(t, b.s.world.byName)
	require.Empty(t, b.s.world.tried)
	require.Empty(t, b.s.world.live["h"])
}

func TestOpenRefused(t *testing.T) {
	o := Options{Dir: t.TempDir(), AgentToken: agentToken, UserToken: userToken}
	s, err := Open(t.Context(), o)
	require.NoError(t, err)
	defer s.Close() //nolint:errcheck // checked below

	_, err = Open(t.Context(), o)
	var locked *state.LockedError
	require.ErrorAs(t, err, &locked)
	require.Contains(t, locked.Error(), "process ")

	second := o
	second.Dir, second.Addr = t.TempDir(), s.Addr().String()
	_, err = Open(t.Context(), second)
	var used *AddrInUseError
	require.ErrorAs(t, err, &used)
	require.Contains(t, used.Error(), second.Addr)
	// It let go of its state.
	second.Addr = ""
	s2, err := Open(t.Context(), second)
	require.NoError(t, err)
	require.NoError(t, s2.Close())

	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.com:0"} {
		second.Addr = addr
		_, err = Open(t.Context(), second)
		require.ErrorIs(t, err, ErrExposed, addr)
	}
	open, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	defer open.Close() //nolint:errcheck // a test's
	second.Addr, second.Listener = "", open
	_, err = Open(t.Context(), second)
	require.ErrorIs(t, err, ErrExposed)

	for _, bad := range []Options{
		{AgentToken: agentToken, UserToken: userToken},
		{Dir: second.Dir},
		{Dir: second.Dir, AgentToken: "short", UserToken: userToken},
		{Dir: second.Dir, AgentToken: userToken, UserToken: userToken},
	} {
		_, err = Open(t.Context(), bad)
		require.Error(t, err)
	}
	require.NoError(t, s.Close())
}

func TestFilesArePrivate(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	b.submit(single)
	c := h.claim()
	h.begin(c)
	_, err := h.c.AppendLog(t.Context(), ref(c), 0, []byte("x"))
	require.NoError(t, err)
	require.NoError(t, filepath.Walk(b.o.Dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if fi != nil && p != b.o.Dir {
			require.Zero(t, fi.Mode().Perm()&0o077, p)
		}
		return nil
	}))
}

// Run ends when its context does, and answers the long-polls that are under way.
func TestRunEnds(t *testing.T) {
	o := Options{Dir: t.TempDir(), AgentToken: agentToken, UserToken: userToken}
	s, err := Open(t.Context(), o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c, err := api.NewClient(s.URL(), userToken, nil)
	require.NoError(t, err)
	p, err := c.Submit(t.Context(), "k", api.Submit{Project: "p", File: "f", Text: single})
	require.NoError(t, err)
	polled := make(chan error, 1)
	go func() {
		_, err := c.Events(context.Background(), p.ID, 1000, time.Minute)
		polled <- err
	}()
	time.Sleep(50 * time.Millisecond)
	begin := time.Now()
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-polled)
	require.Less(t, time.Since(begin), 30*time.Second) // not the minute
}
