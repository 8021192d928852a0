package plugintest

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire"
	"github.com/roost-ci/roost/snapshot"
)

// stage is one test: an agent, what is around the plugin, and the plugin, time and again.
type stage struct {
	t   *testing.T
	f   PluginFixture
	a   *agent
	d   Driver
	dir string
	log Log

	mu     sync.Mutex
	p      *wire.Process
	cancel context.CancelFunc
	served chan error
}

func newStage(t *testing.T, f PluginFixture) *stage {
	s := &stage{t: t, f: f, a: newAgent(t, 1, 2), d: f.Driver(t), dir: filepath.Join(t.TempDir(), "plugin")}
	require.NoError(t, mkdirPrivate(s.dir))
	t.Cleanup(func() {
		s.kill()
		s.died()
		if t.Failed() {
			t.Logf("the plugin's log:\n%s", s.log.String())
		}
	})
	return s
}

// start starts a process and lets it serve.
func (s *stage) start() {
	s.t.Helper()
	c := s.f.Command
	c.Log = hclog.New(&hclog.LoggerOptions{Output: &s.log, Level: hclog.Trace})
	c.Sockets = s.t.TempDir()
	if len(c.Sockets) > 60 {
		c.Sockets = ""
	}
	p, err := wire.Start(s.t.Context(), c)
	require.NoError(s.t, err)
	s.a.begin()
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	served := make(chan error, 1)
	go func() {
		served <- p.Plugin.Serve(ctx, plugin.Settings{
			Host: "host-a", Slots: s.a.slots, Dir: s.dir, Config: s.d.Config(s.a.root),
		}, s.a)
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.p, s.cancel, s.served = p, cancel, served
}

// kill kills the process, kill -9, and doesn't wait.
func (s *stage) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p != nil {
		s.p.KillNow()
	}
}

// died waits until the process is gone and its calls have ended.
func (s *stage) died() {
	s.mu.Lock()
	p, served, cancel := s.p, s.served, s.cancel
	s.p = nil
	s.mu.Unlock()
	if p == nil {
		return
	}
	<-served
	cancel()
	p.Kill()
	<-p.Done()
}

// again is what an agent does when a plugin dies.
func (s *stage) again() {
	s.t.Helper()
	s.kill()
	s.died()
	s.start()
}

// end ends the process in peace.
func (s *stage) end() {
	s.t.Helper()
	s.mu.Lock()
	p, served, cancel := s.p, s.served, s.cancel
	s.p = nil
	s.mu.Unlock()
	if p == nil {
		return
	}
	cancel()
	select {
	case err := <-served:
		require.NoError(s.t, err, "Serve returns nil when its context ends")
	case <-time.After(s.patience()):
		p.KillNow()
		require.Fail(s.t, "Serve does not end with its context")
	}
	p.Kill()
	<-p.Done()
	require.Equal(s.t, "exit status 0", p.Exit(), "main returns after wire.Main")
}

func (s *stage) patience() time.Duration { return patience * time.Duration(s.f.Slow) }

// until waits until something holds.
func (s *stage) until(what string, f func() bool) {
	s.t.Helper()
	for end := time.Now().Add(s.patience()); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(s.t, "it never came: "+what, "what the plugin did wrong: %q", s.a.complaints())
		}
	}
}

// submit makes a job.
func (s *stage) submit(j TestJob) string {
	s.t.Helper()
	id := string(NewID(s.t))
	j.Name, j.Secret = "job"+id[:10], "canary"+id
	w := &work{TestJob: j, brought: true}
	s.a.expect(w)
	if payload := s.d.Submit(s.t, j); payload != nil {
		require.Contains(s.t, string(payload), j.Name, "the driver's payload names the job")
		require.Contains(s.t, string(payload), j.Secret, "and holds its secret")
		s.a.submit(w, payload)
	}
	return j.Name
}

// settled waits until a job's end is known to its system and to the agent.
func (s *stage) settled(name string) Seen {
	s.t.Helper()
	var seen Seen
	s.until("the job "+name+" ends", func() bool {
		tries := s.a.tries(name)
		seen = s.d.Look(s.t, name)
		return len(seen.Ended) > 0 && len(tries) > 0 && tries[len(tries)-1].over()
	})
	return seen
}

func (s *stage) running(name string) {
	s.t.Helper()
	s.until("the job "+name+" runs", func() bool { return s.d.Look(s.t, name).Running })
}

// last is a job's attempt.
func (s *stage) last(name string) try {
	s.t.Helper()
	tries := s.a.tries(name)
	require.NotEmpty(s.t, tries, "attempts of %s", name)
	return tries[len(tries)-1]
}

func (s *stage) lose(id snapshot.ID) {
	s.t.Helper()
	s.a.mu.Lock()
	s.a.attempts[id].lost = true
	s.a.mu.Unlock()
	s.mu.Lock()
	p := s.p
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.t.Context(), s.patience())
	defer cancel()
	require.NoError(s.t, p.Plugin.Lost(ctx, id, "the coordinator gave it to another host"))
}

// close ends the plugin and looks back at the whole test.
func (s *stage) close() {
	s.t.Helper()
	s.end()
	require.Empty(s.t, s.a.complaints(), "what the plugin did wrong")
	log := s.log.String()
	for _, name := range s.a.names() {
		tries, seen := s.a.tries(name), s.d.Look(s.t, name)
		require.NotContains(s.t, log, s.a.known[name].Secret, "a payload's secret is in the plugin's log")
		s.verdict(name, tries, seen)
	}
	for _, id := range s.a.order {
		require.True(s.t, s.a.attempts[id].over(), "attempt %s never ended", id)
	}
}

// verdict: whatever happened on the way, a job ends once, for everybody in the same way.
func (s *stage) verdict(name string, tries []try, seen Seen) {
	s.t.Helper()
	job := s.a.known[name]
	require.LessOrEqual(s.t, seen.Began, 1, "job %s ran more than once", name)
	require.False(s.t, seen.Running, "job %s still runs", name)
	for i, tr := range tries {
		if tr.lost {
			require.Empty(s.t, seen.Ended, "job %s was lost: its system hears of its end from others", name)
			return
		}
		if i < len(tries)-1 {
			require.NotNil(s.t, tr.dropped, "job %s: attempt %d of %d ended otherwise than undelivered", name, i+1, len(tries))
			require.Equal(s.t, plugin.OutcomeUndelivered, tr.dropped.Outcome, "job %s: attempt %d of %d", name, i+1, len(tries))
		}
	}
	require.Len(s.t, seen.Ended, 1, "job %s: ends told to its system", name)
	end, tr := seen.Ended[0], tries[len(tries)-1]
	switch {
	case tr.sealed != nil && !tr.sealed.Failed:
		require.Equal(s.t, plugin.StatusSuccess, end, "job %s was sealed", name)
	case tr.sealed != nil:
		require.NotEqual(s.t, plugin.StatusSuccess, end, "job %s must not count as a success", name)
	default:
		require.NotEqual(s.t, plugin.StatusSuccess, end, "job %s was discarded", name)
	}
	if seen.Began == 1 && seen.Dir != "" && tr.attached && tr.view != "" {
		require.Equal(s.t, tr.view, seen.Dir, "job %s: where it ran", name)
	}
	if seen.Log != "" && tr.sealed != nil {
		require.Equal(s.t, 1, strings.Count(seen.Log, lineBefore), "job %s: Workspace.Lines in the log:\n%s", name, seen.Log)
		for _, l := range tr.sealed.Lines {
			require.Equal(s.t, 1, strings.Count(seen.Log, l), "job %s: Sealed.Lines in the log:\n%s", name, seen.Log)
		}
	}
	if tr.sealed == nil && job.Exit != 0 && tr.dropped.Outcome == plugin.OutcomeFailed {
		require.Equal(s.t, plugin.StatusFailed, end, "job %s", name)
	}
}
