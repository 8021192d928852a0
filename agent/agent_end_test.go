package agent

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestCancelAndFence(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	h := newHost(t, f, "a").start()
	at := f.give("a", job("long", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
	f.edit(func() { at.cancel = true })
	fin := f.finished(at)
	require.Equal(t, api.StatusCanceled, fin.Status)
	require.Empty(t, fin.Output)

	ff := f.give("a", job("fenced", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(ff.log), "\nup\n") })
	f.edit(func() { ff.fenced = true })
	// Its slot is free again, and nothing was reported.
	next := []*fakeAttempt{f.give("a", job("n1", "sleep 0.3")), f.give("a", job("n2", "sleep 0.3"))}
	for _, n := range next {
		f.green(n)
	}
	require.Nil(t, ff.finish)
	h.end()
	requireNoViews(t, h)
}

// TestFencedOutput: the coordinator gave the job away while it was being sealed.
// Its output is kept and not sent anywhere.
func TestFencedOutput(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a").start()
	f.edit(func() { f.down = func(_, p string) bool { return strings.HasSuffix(p, ":finish") } })
	at := f.give("a", job("late", "echo x > x"))
	require.Eventually(t, func() bool { return f.called(":finish") > 0 }, time.Minute, 5*time.Millisecond)
	f.edit(func() { at.fenced, f.down = true, nil })
	require.Eventually(t, func() bool { return len(h.store.Views()) == 0 }, time.Minute, 10*time.Millisecond)
	_, err := h.store.Lookup(at.claim.Attempt)
	require.NoError(t, err)
	require.Zero(t, f.called("PUT", "/v1/snapshots"))
}

// TestLeaseLost: a host that the coordinator does not hear stops its jobs before
// they can be given to others.
func TestLeaseLost(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.lease = 4 * time.Second // long enough to be renewed on a busy machine
	newHost(t, f, "a").start()
	at := f.give("a", job("long", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
	begin := time.Now()
	f.edit(func() { f.down = func(_, p string) bool { return strings.HasSuffix(p, ":heartbeat") } })
	fin := f.finished(at)
	require.Less(t, time.Since(begin), 50*time.Second) // not the job's 100
	require.True(t, fin.Infrastructure)
	require.Equal(t, api.FailHostLost, fin.Code)
	// No work is taken meanwhile; when the lease is back it goes on.
	n := f.give("a", job("next", "true"))
	time.Sleep(500 * time.Millisecond)
	f.edit(func() { require.False(t, n.accepted); f.down = nil })
	f.green(n)
}

// TestCoordinatorRestarts: it forgets its agents and is away for a while; the job
// runs on, its log is whole, its end is reported.
func TestCoordinatorRestarts(t *testing.T) {
	f := newFake(t)
	f.lease = 30 * time.Second
	newHost(t, f, "a").start()
	at := f.give("a", job("long", "for i in $(seq 1 40); do echo line $i; sleep 0.02; done", "echo x > x"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "line 3\n") })
	f.edit(func() { f.down = func(_, p string) bool { return !strings.HasPrefix(p, "/v1/blobs") } })
	time.Sleep(1500 * time.Millisecond)
	f.edit(func() { f.down, f.agents = nil, map[string]*fakeAgent{} })
	f.green(at)
	log := f.logOf(at)
	for i := 1; i <= 40; i++ {
		require.Contains(t, log, fmt.Sprintf("\nline %d\n", i))
	}
	require.True(t, strings.HasSuffix(log, "\n"))
	f.durable(at.finish.Output)
	f.wait("registration", func() bool { return f.agents["a"] != nil })
}

func TestNameTaken(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	f.wait("registration", func() bool { return f.agents["a"] != nil })
	b := newHost(t, f, "a")
	b.dir = filepath.Join(t.TempDir(), "other")
	b.start()
	err := <-b.done
	b.stop()
	b.stop = nil
	require.ErrorIs(t, err, &api.Error{Code: api.CodeNameTaken})
	require.Contains(t, err.Error(), `"a" belongs to another agent`)
	require.NoError(t, b.store.Close())
}

// TestShutdown stops an agent during a job: the job is given back, and what was
// sealed before is uploaded.
func TestShutdown(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a").start()
	done := f.give("a", job("done", "head -c 2000000 /dev/urandom > big"))
	f.green(done)
	at := f.give("a", job("long", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
	begin := time.Now()
	h.end()
	require.Less(t, time.Since(begin), 50*time.Second) // not the job's 100
	require.NotNil(t, at.finish)
	require.True(t, at.finish.Infrastructure)
	require.Equal(t, api.FailAgentDied, at.finish.Code)
	require.True(t, f.layers[done.finish.Output].Durable)
	requireNoViews(t, h)
}
