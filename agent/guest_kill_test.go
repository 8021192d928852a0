package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// scripted is a plugin with one runner in slot 1, in a process that may be killed. What
// its runner does outlives it, as real ones do: files in dir say what was handed out.
//
//	runner/<id>  a runner got the job, in the view that the file names
//	ended/<id>   what the agent answered to its end
type scripted struct {
	dir string
	end string // "seal" or "discard"
	a   plugin.Agent
}

func (p *scripted) on(a plugin.Agent) (Plugin, error) {
	p.a = a
	for _, d := range []string{"runner", "ended"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *scripted) Lost(context.Context, snapshot.ID, string) error { return nil }

func (p *scripted) Run(ctx context.Context) error {
	held, err := p.a.Held(ctx)
	if err != nil {
		return err
	}
	for _, h := range held {
		if _, err := os.Stat(p.file("runner", h.Attempt)); err != nil { // no runner saw it
			err = p.a.Discard(ctx, plugin.DiscardRequest{Attempt: h.Attempt, Outcome: plugin.OutcomeUndelivered})
			if err != nil {
				return err
			}
		}
	}
	given, err := os.ReadDir(filepath.Join(p.dir, "runner"))
	if err != nil {
		return err
	}
	for _, e := range given {
		if err := p.finish(ctx, snapshot.ID(e.Name())); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		g, err := p.a.Claim(ctx, plugin.Offer{Slot: 1})
		if err != nil || g == nil {
			continue
		}
		w, err := p.a.Attach(ctx, g.Attempt, nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile(p.file("runner", g.Attempt), []byte(w.View), 0o644); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(w.View, "ran"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		fmt.Fprintln(f, "ran")
		f.Close()
		if err := p.finish(ctx, g.Attempt); err != nil {
			return err
		}
	}
	return nil
}

func (p *scripted) file(dir string, id snapshot.ID) string {
	return filepath.Join(p.dir, dir, string(id))
}

// finish ends a job that a runner had, until the agent has answered.
func (p *scripted) finish(ctx context.Context, id snapshot.ID) error {
	if _, err := os.Stat(p.file("ended", id)); err == nil {
		return nil
	}
	var answer any = "discarded"
	if p.end == "seal" {
		s, err := p.a.Seal(ctx, plugin.SealRequest{Attempt: id, Within: time.Minute})
		if err != nil {
			return err
		}
		answer = s
	} else if err := p.a.Discard(ctx, plugin.DiscardRequest{Attempt: id, Outcome: plugin.OutcomeFailed}); err != nil {
		return err
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return durable.Replace(p.file("ended", id), 0o644, b)
}

// checkGuest waits for the end of an attempt whose agent was killed, and checks that it
// is the only one that it can have.
func checkGuest(t *testing.T, h *host, at *fakeAttempt, end string) {
	t.Helper()
	fin := h.f.finished(at)
	p := &scripted{dir: h.dir}
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(filepath.Join(h.dir, "store", "attempts", string(at.claim.Attempt)+".json"))
		return errors.Is(err, os.ErrNotExist) || strings.Contains(string(b), `"told":true`)
	}, time.Minute, 5*time.Millisecond)
	if _, err := os.Stat(p.file("runner", at.claim.Attempt)); errors.Is(err, os.ErrNotExist) {
		require.True(t, fin.Undelivered, "%+v", fin)
		require.True(t, fin.Infrastructure)
		return
	}
	require.Eventually(t, func() bool { _, err := os.Stat(p.file("ended", at.claim.Attempt)); return err == nil }, time.Minute, 5*time.Millisecond)
	if end == "discard" {
		require.Equal(t, api.StatusFailed, fin.Status)
		require.Equal(t, api.FailScript, fin.Code)
		require.False(t, fin.Infrastructure)
		return
	}
	require.Equal(t, api.StatusSuccess, fin.Status, "%+v", fin)
	require.Equal(t, at.claim.Attempt, fin.Output, "%+v", fin)
	b, err := os.ReadFile(p.file("ended", at.claim.Attempt))
	require.NoError(t, err)
	require.Contains(t, string(b), `"output":"`+string(at.claim.Attempt)+`"`)
	require.Equal(t, 1, strings.Count(h.f.logOf(at), "workspace FRESH"))
}

// afterKill checks that a host on which agents were killed has kept what was sealed and
// nothing else.
func (h *host) afterKill(at *fakeAttempt) {
	h.t.Helper()
	st, err := store.Open(h.t.Context(), filepath.Join(h.dir, "store"), h.storeOptions())
	require.NoError(h.t, err)
	if out := at.finish.Output; out != "" {
		m, err := st.Tree(h.t.Context(), out)
		require.NoError(h.t, err)
		e, ok := m.Find("ran")
		require.True(h.t, ok)
		require.EqualValues(h.t, len("ran\n"), e.Size, "it ran once")
	}
	require.NoError(h.t, st.Close())
	requireNoViews(h.t, h)
}

// TestGuestKilled kills the agent, and its plugin with it, while a runner has a job.
func TestGuestKilled(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		testenv.Require(t, testenv.Linux)
		for _, end := range []string{"seal", "discard"} {
			t.Run(end, func(t *testing.T) {
				f := newFake(t)
				h := newHost(t, f, "a")
				h.driver = driver
				cmd := h.victim(victimPlugin + "=" + end)
				f.wait("an offer", func() bool { return len(f.offers) == 1 })
				f.edit(func() { f.down = func(_, p string) bool { return strings.HasSuffix(p, ":finish") } })
				at := f.give("a", ext("job"))
				require.Eventually(t, func() bool { return f.called(":finish") > 0 }, time.Minute, 2*time.Millisecond)
				kill(t, cmd)
				f.edit(func() { f.down = nil })
				cmd = h.victim(victimPlugin + "=" + end)
				checkGuest(t, h, at, end)
				kill(t, cmd)
				h.afterKill(at)
			})
		}
	})
}
