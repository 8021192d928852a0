package plugintest

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
)

// killedAtCalls kills the plugin at each call that it makes, twice. No job is lost by it.
func killedAtCalls(t *testing.T, s *stage) {
	for _, tc := range []struct {
		call string
		exit int
		want plugin.Status
	}{
		{atClaim, 0, plugin.StatusSuccess},
		{atGrant, 0, plugin.StatusSuccess},
		{atAttach, 0, plugin.StatusSuccess},
		{atAttached, 0, plugin.StatusSuccess},
		{atSeal, 0, plugin.StatusSuccess},
		{atSealed, 0, plugin.StatusSuccess},
		{atDiscard, 1, plugin.StatusFailed},
		{atDiscarded, 1, plugin.StatusFailed},
	} {
		t.Logf("killed at %s", tc.call)
		var kills atomic.Int32
		s.a.mu.Lock()
		s.a.at = func(call string, tr *try) {
			if call == tc.call && kills.Add(1) <= 2 {
				s.kill()
			}
		}
		s.a.mu.Unlock()
		s.start()
		name := s.submit(TestJob{Exit: tc.exit})
		var seen Seen
		s.until("the job ends, after kills at "+tc.call, func() bool {
			if s.dead() {
				s.died()
				s.start()
			}
			seen = s.d.Look(t, name)
			return len(seen.Ended) > 0
		})
		require.Equal(t, []plugin.Status{tc.want}, seen.Ended, "killed at %s", tc.call)
		require.Positive(t, kills.Load(), "it was never killed at %s", tc.call)
		s.kill()
		s.died()
	}
	s.a.at = nil
	s.start()
}

// dead reports whether the process has ended.
func (s *stage) dead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p == nil {
		return false
	}
	select {
	case <-s.p.Done():
		return true
	default:
		return false
	}
}

// killedWhileRunning: the job's runner goes on, or its script does.
func killedWhileRunning(t *testing.T, s *stage) {
	s.start()
	good, bad := s.submit(TestJob{Waits: true}), s.submit(TestJob{Waits: true, Exit: 4})
	s.running(good)
	s.running(bad)
	s.again()
	s.again()
	s.d.Release(t, good)
	require.Equal(t, []plugin.Status{plugin.StatusSuccess}, s.settled(good).Ended)
	// This one ends while there is no plugin.
	s.kill()
	s.died()
	s.d.Release(t, bad)
	time.Sleep(200 * time.Millisecond)
	s.start()
	require.Equal(t, []plugin.Status{plugin.StatusFailed}, s.settled(bad).Ended)
}

func killedWhileLost(t *testing.T, s *stage) {
	s.start()
	name := s.submit(TestJob{Waits: true})
	s.running(name)
	var kills atomic.Int32
	s.a.mu.Lock()
	s.a.at = func(call string, tr *try) {
		if call == atDiscard && kills.Add(1) == 1 {
			s.kill()
		}
	}
	s.a.mu.Unlock()
	id := s.last(name).id
	s.a.mu.Lock()
	s.a.attempts[id].lost = true
	s.a.mu.Unlock()
	_ = s.p.Plugin.Lost(t.Context(), id, "gone") // it may die of it
	s.until("it is killed", s.dead)
	s.died()
	s.start()
	s.lose(id) // an agent tells every new process
	s.until("discarded", func() bool { return s.last(name).dropped != nil })
	s.until("stopped", func() bool { return !s.d.Look(t, name).Running })
}

func killedAtRandom(t *testing.T, s *stage) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var names []string
	for i := range s.f.Jobs {
		names = append(names, s.submit(TestJob{Exit: i % 3 % 2}))
	}
	s.start()
	for range 12 {
		time.Sleep(time.Duration(rnd.Int64N(int64(80 * time.Millisecond))))
		s.again()
	}
	for i, n := range names {
		want := plugin.StatusSuccess
		if i%3%2 != 0 {
			want = plugin.StatusFailed
		}
		require.Equal(t, []plugin.Status{want}, s.settled(n).Ended)
	}
}
