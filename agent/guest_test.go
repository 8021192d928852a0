package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

const wsName = "abcdefghijklmnopqrstuvwxyz"

// TestGuestChain: a job in a runner of its own, and one after it on the same host.
func TestGuestChain(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		h := guestHost(t, f)
		h.driver = driver
		h.start()

		build, g := h.claim(2, ext("build"))
		require.Equal(t, "payload of build, a SECRET", string(g.Payload))
		require.Equal(t, "waited\n", string(g.Log))
		require.GreaterOrEqual(t, g.Age, 1500*time.Millisecond)
		require.True(t, build.accepted)
		held, err := h.ag().Held(t.Context())
		require.NoError(t, err)
		require.Equal(t, []plugin.Held{{Attempt: g.Attempt, Slot: 2}}, held)
		slot := filepath.Join(h.store.Dir(), "slots", "2")
		require.NoError(t, os.WriteFile(filepath.Join(slot, "left.tmp"), nil, 0o600))

		w, err := h.ag().Attach(t.Context(), g.Attempt, nil)
		require.NoError(t, err)
		require.NoFileExists(t, filepath.Join(slot, "left.tmp"))
		require.Equal(t, filepath.Join(slot, wsName), w.View)
		require.Equal(t, wsName, w.Name)
		require.Equal(t, plugin.StateFresh, w.State)
		require.Empty(t, w.Contained)
		again, err := h.ag().Attach(t.Context(), g.Attempt, nil)
		require.NoError(t, err)
		require.Equal(t, w, again)
		f.wait("start", func() bool { return build.start != nil })
		require.NoError(t, os.WriteFile(filepath.Join(w.View, "out"), []byte("built"), 0o644))
		s := h.seal(build)
		require.Equal(t, build.claim.Attempt, s.Output)
		require.False(t, s.Failed)
		require.Equal(t, s, h.seal(build), "a second call is answered as the first")
		fin := f.green(build)
		require.Equal(t, int64(1200), fin.RunMS)
		require.NoDirExists(t, w.View)

		c := from(ext("test"), build)
		c.External.Contained = []string{"1build"}
		at, w := h.open(1, c)
		require.Equal(t, plugin.StateFull, w.State)
		require.Equal(t, []string{"1build"}, w.Contained)
		b, err := os.ReadFile(filepath.Join(w.View, "out"))
		require.NoError(t, err)
		require.Equal(t, "built", string(b))
		require.Len(t, w.Lines, 1)
		moved := "0 B moved"
		if driver == view.NameCopy {
			moved = "5 B moved"
		}
		require.Regexp(t, `^roost: workspace FULL from build \(dependencies\): 5 B, `+moved+`, ready in [0-9.]+[mµ]?s$`, w.Lines[0])
		require.Equal(t, "FULL", w.Env["ROOST_WORKSPACE_STATE"])
		require.Equal(t, "parent", w.Env["ROOST_WORKSPACE_ORIGIN"])
		require.Equal(t, "local", w.Env["ROOST_DURABILITY"])
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{
			Attempt: at.claim.Attempt, Outcome: plugin.OutcomeFailed, ExitCode: 3, Reason: "exit code 3",
		}))
		fin = f.finished(at)
		require.Equal(t, api.StatusFailed, fin.Status)
		require.Equal(t, 3, fin.ExitCode)
		require.False(t, fin.Infrastructure)
		held, err = h.ag().Held(t.Context())
		require.NoError(t, err)
		require.Empty(t, held)
		require.Contains(t, f.logOf(at), strings.TrimPrefix(w.Lines[0], "roost: "))
		f.durable(build.finish.Output)
		h.end()
		requireNoViews(t, h)
		require.True(t, f.agents["a"].left)
	})
}

// TestGuestOutlivesAgent: the agent is stopped and started during a job, as often as
// it likes; the job goes on in its view and is sealed by another process's agent.
func TestGuestOutlivesAgent(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		h := guestHost(t, f)
		h.driver = driver
		h.start()
		base := h.pass(1, ext("base"), "b")
		at, w := h.open(2, from(ext("long"), base))
		require.NoError(t, os.WriteFile(filepath.Join(w.View, "one"), nil, 0o644))
		job, err := os.OpenFile(filepath.Join(w.View, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) // the job's own
		require.NoError(t, err)
		for range 2 {
			h.end()
			require.False(t, f.agents["a"].left, "a host with jobs does not say good-bye")
			require.Nil(t, at.finish)
			_, err := job.WriteString("x") // it runs on without us
			require.NoError(t, err)
			h.start()
			require.Equal(t, []plugin.Held{{Attempt: at.claim.Attempt, Slot: 2, Attached: true}}, h.held())
		}
		require.NoError(t, job.Close())
		again, err := h.ag().Attach(t.Context(), at.claim.Attempt, nil)
		require.NoError(t, err)
		require.Equal(t, w, again)
		_, err = h.ag().Claim(t.Context(), plugin.Offer{Slot: 2})
		require.ErrorIs(t, err, snapshot.ErrBusy)
		s := h.seal(at)
		require.Equal(t, at.claim.Attempt, s.Output, "%+v", s)
		h.end()
		h.start()
		require.Equal(t, s, h.seal(at), "answered as before, also by the next process")
		require.Empty(t, h.held())
		child, w := h.open(1, from(ext("child"), at))
		for _, n := range []string{"b", "one"} {
			require.FileExists(t, filepath.Join(w.View, n))
		}
		b, err := os.ReadFile(filepath.Join(w.View, "log"))
		require.NoError(t, err)
		require.Equal(t, "xx", string(b))
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: child.claim.Attempt, Outcome: plugin.OutcomeCanceled}))
		require.Equal(t, api.StatusCanceled, f.finished(child).Status)
		h.end()
		requireNoViews(t, h)
		require.True(t, f.agents["a"].left)
	})
}

// TestGuestAfterReboot: what was running is lost with the machine, and said to be.
func TestGuestAfterReboot(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	h.edit = func(o *Options) { o.BootID = "one" }
	h.start()
	at, w := h.open(1, ext("long"))
	require.NoError(t, os.WriteFile(filepath.Join(w.View, "x"), nil, 0o644))
	h.end()
	h.edit = func(o *Options) { o.BootID = "two" }
	h.start()
	fin := f.finished(at)
	require.True(t, fin.Infrastructure)
	require.False(t, fin.Undelivered)
	require.Equal(t, api.FailAgentDied, fin.Code)
	require.Empty(t, h.held())
	require.NoDirExists(t, w.View)
	h.pass(1, ext("next"), "y")
	h.end()
	requireNoViews(t, h)
}

// TestGuestUndelivered: jobs that no runner saw are given back.
func TestGuestUndelivered(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	h.start()
	back := func(at *fakeAttempt) {
		t.Helper()
		fin := f.finished(at)
		require.True(t, fin.Infrastructure)
		require.True(t, fin.Undelivered)
		require.Equal(t, api.FailUndelivered, fin.Code)
		require.Empty(t, h.held())
	}
	t.Run("the runner says so", func(t *testing.T) {
		at, _ := h.open(1, ext("a"))
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: at.claim.Attempt, Outcome: plugin.OutcomeUndelivered}))
		back(at)
	})
	t.Run("its request had gone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		f.edit(func() { f.offers = nil })
		go func() {
			defer close(done)
			g, err := h.ag().Claim(ctx, plugin.Offer{Slot: 2})
			require.NoError(t, err)
			require.Nil(t, g)
		}()
		f.wait("an offer", func() bool { return len(f.offers) == 1 })
		cancel()
		<-done
		at := f.give("a", ext("b")) // the request for work still tells of slot 2
		back(at)
	})
	t.Run("the slot that it must go to", func(t *testing.T) {
		c := ext("c")
		c.External.Slot = 2
		at := f.give("a", c)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		g, err := h.ag().Claim(ctx, plugin.Offer{Slot: 1})
		require.NoError(t, err)
		require.Nil(t, g)
		require.Nil(t, at.finish)
		g, err = h.ag().Claim(t.Context(), plugin.Offer{Slot: 2})
		require.NoError(t, err)
		require.Equal(t, 2, g.Slot)
		require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: g.Attempt, Outcome: plugin.OutcomeUndelivered}))
		back(at)
	})
	t.Run("the agent was stopped before", func(t *testing.T) {
		at, _ := h.claim(1, ext("d"))
		h.end()
		h.start()
		back(at)
	})
	h.end()
	requireNoViews(t, h)
}

// TestGuestLost: a lease that is not renewed stops no job of a system that refuses a
// second report; a word that it is not ours does.
func TestGuestLost(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.lease = time.Second
	h := guestHost(t, f)
	h.edit = func(o *Options) { o.LostWait = 3 * time.Second } // a plugin does what it is told meanwhile
	h.start()
	kept, _ := h.open(1, ext("kept"))
	f.edit(func() { f.down = func(_, p string) bool { return !strings.HasPrefix(p, "/v1/blobs") } })
	time.Sleep(1500 * time.Millisecond)
	require.Empty(t, h.plugin.lostWhy(kept.claim.Attempt))
	require.Len(t, h.held(), 1)
	f.edit(func() { f.down = nil })
	require.Equal(t, kept.claim.Attempt, h.seal(kept).Output)

	stops, _ := h.open(1, ext("stops"))
	f.edit(func() { stops.cancel = true; h.plugin.fails = 2 })
	require.Eventually(t, func() bool { return h.plugin.lostWhy(stops.claim.Attempt) == "canceled" }, time.Minute, 5*time.Millisecond)
	require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: stops.claim.Attempt, Outcome: plugin.OutcomeCanceled}))
	require.Equal(t, api.StatusCanceled, f.finished(stops).Status)

	runs, w := h.open(2, ext("runs on"))
	f.edit(func() { runs.cancel = true })
	fin := f.finished(runs)
	require.Equal(t, api.StatusCanceled, fin.Status)
	require.NoDirExists(t, w.View)

	fenced, w := h.open(2, ext("fenced"))
	f.edit(func() { fenced.fenced = true })
	require.Eventually(t, func() bool { return h.plugin.lostWhy(fenced.claim.Attempt) != "" }, time.Minute, 5*time.Millisecond)
	require.Eventually(t, func() bool { return len(h.held()) == 0 }, time.Minute, 5*time.Millisecond)
	require.NoDirExists(t, w.View)
	require.Nil(t, fenced.finish)
	h.end()
	requireNoViews(t, h)
}

// TestGuestUnreachable: a seal answers though the coordinator does not, and it hears of
// it later, also by the next process.
func TestGuestUnreachable(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.lease = 30 * time.Second
	h := guestHost(t, f)
	h.edit = func(o *Options) { o.DrainTimeout = 500 * time.Millisecond }
	h.start()
	at, w := h.open(1, ext("a"))
	require.NoError(t, os.WriteFile(filepath.Join(w.View, "x"), nil, 0o644))
	f.edit(func() { f.down = func(_, p string) bool { return strings.Contains(p, "/v1/attempts/") } })
	begin := time.Now()
	s, err := h.ag().Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Within: 700 * time.Millisecond})
	require.NoError(t, err)
	require.Less(t, time.Since(begin), 20*time.Second) // the lease is 30
	require.Equal(t, at.claim.Attempt, s.Output)
	require.Contains(t, strings.Join(s.Lines, "\n"), "hears of this job later")
	require.Empty(t, h.held())
	// Its slot is free.
	_, err = h.ag().Claim(expired(t), plugin.Offer{Slot: 1})
	require.NoError(t, err)
	h.end()
	require.Nil(t, at.finish)
	f.edit(func() { f.down = nil })
	h.start()
	fin := f.green(at)
	require.Equal(t, at.claim.Attempt, fin.Output)
	f.durable(fin.Output)
	require.Equal(t, s.Output, h.seal(at).Output)
	h.end()
	requireNoViews(t, h)
}

// TestGuestRefused: a job that the coordinator does not believe in is refused with its reason, and
// its slot takes the next one.
func TestGuestRefused(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	f.refuse = func(o api.SlotOffer) *api.Refusal {
		switch string(o.Job) {
		case "forged":
			return &api.Refusal{Slot: o.Slot, Reason: "GitLab does not confirm the job"}
		case "later":
			return &api.Refusal{Slot: o.Slot, Reason: "GitLab does not say", Later: true}
		}
		return nil
	}
	h.start()
	for job, want := range map[string]error{"forged": plugin.ErrInvalid, "later": plugin.ErrUnavailable} {
		g, err := h.ag().Claim(t.Context(), plugin.Offer{Slot: 1, Job: []byte(job)})
		require.Nil(t, g)
		require.ErrorIs(t, err, want)
		require.ErrorContains(t, err, "GitLab does not")
	}
	h.pass(1, ext("next"), "file")
}
