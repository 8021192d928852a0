package plugintest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

func mkdirPrivate(dir string) error { return os.MkdirAll(dir, 0o700) }

func describes(t *testing.T, s *stage) {
	s.start()
	for range 2 {
		d, err := s.p.Plugin.Describe(t.Context())
		require.NoError(t, err)
		require.Regexp(t, `^[a-z][a-z0-9-]{0,30}$`, d.Name)
		require.NotEmpty(t, d.Version)
		require.Equal(t, plugin.Contract, d.Contract)
	}
}

func servesAndEnds(t *testing.T, s *stage) {
	for range 3 {
		s.start()
		s.until("it asks what it holds", func() bool {
			s.a.mu.Lock()
			defer s.a.mu.Unlock()
			return s.a.asked
		})
		s.end()
	}
	s.start()
	s.end() // at once, whatever it is at
}

func succeeds(t *testing.T, s *stage) {
	var early plugin.Status
	s.a.at = func(call string, tr *try) {
		if call == atSeal {
			if ended := s.d.Look(t, tr.job.Name).Ended; len(ended) > 0 {
				early = ended[0]
			}
			time.Sleep(200 * time.Millisecond) // a seal takes a while
			if ended := s.d.Look(t, tr.job.Name).Ended; len(ended) > 0 {
				early = ended[0]
			}
		}
	}
	name := s.submit(TestJob{})
	s.start()
	seen := s.settled(name)
	require.Equal(t, []plugin.Status{plugin.StatusSuccess}, seen.Ended)
	require.NotNil(t, s.last(name).sealed)
	require.Empty(t, early, "its system was told before the seal was done")
}

func fails(t *testing.T, s *stage) {
	s.start()
	name := s.submit(TestJob{Exit: 3})
	seen := s.settled(name)
	require.Equal(t, []plugin.Status{plugin.StatusFailed}, seen.Ended)
	d := s.last(name).dropped
	require.NotNil(t, d)
	require.Equal(t, plugin.OutcomeFailed, d.Outcome)
}

func noWorkspace(t *testing.T, s *stage) {
	s.a.attach = func(*try) (*plugin.Workspace, error) {
		return nil, &plugin.Error{Code: "REQUIRED", Text: "the job needs its workspace, and the disk is full"}
	}
	s.start()
	name := s.submit(TestJob{})
	seen := s.settled(name)
	require.Equal(t, []plugin.Status{plugin.StatusSystemFailure}, seen.Ended)
	require.Zero(t, seen.Began, "nothing of it may run")
	d := s.last(name).dropped
	require.NotNil(t, d)
	require.Equal(t, plugin.OutcomeSystem, d.Outcome)
}

func offWorkspace(t *testing.T, s *stage) {
	s.a.attach = func(tr *try) (*plugin.Workspace, error) {
		s.a.mu.Lock()
		defer s.a.mu.Unlock()
		tr.view = ""
		return &plugin.Workspace{State: plugin.StateOff, Reason: "it does not take part", Lines: []string{lineBefore}}, nil
	}
	s.start()
	name := s.submit(TestJob{})
	require.Equal(t, []plugin.Status{plugin.StatusSuccess}, s.settled(name).Ended)
	require.NotNil(t, s.last(name).sealed, "the agent wants to know of its end all the same")
}

func sealFails(t *testing.T, s *stage) {
	s.a.seal = func(*try) (*plugin.Sealed, error) {
		return &plugin.Sealed{Failed: true, Reason: "the promised durability could not be had"}, nil
	}
	s.start()
	name := s.submit(TestJob{})
	require.NotEqual(t, plugin.StatusSuccess, s.settled(name).Ended[0])
}

func unavailable(t *testing.T, s *stage) {
	left := map[string]int{atSeal: 2, atDiscard: 2}
	fail := func(call string) error {
		s.a.mu.Lock()
		defer s.a.mu.Unlock()
		if left[call]--; left[call] >= 0 {
			return fmt.Errorf("the agent is starting: %w", plugin.ErrUnavailable)
		}
		return nil
	}
	s.a.seal = func(*try) (*plugin.Sealed, error) {
		return &plugin.Sealed{Lines: []string{lineBehind}}, fail(atSeal)
	}
	s.a.discard = func(*try) error { return fail(atDiscard) }
	s.start()
	good, bad := s.submit(TestJob{}), s.submit(TestJob{Exit: 1})
	require.Equal(t, []plugin.Status{plugin.StatusSuccess}, s.settled(good).Ended)
	require.Equal(t, []plugin.Status{plugin.StatusFailed}, s.settled(bad).Ended)
}

// oneJobPerSlot: the agent complains about a claim for a slot that has a job.
func oneJobPerSlot(t *testing.T, s *stage) {
	s.start()
	var names []string
	for range 2 {
		names = append(names, s.submit(TestJob{Waits: true}))
	}
	for _, n := range names {
		s.running(n)
	}
	third := s.submit(TestJob{})
	time.Sleep(300 * time.Millisecond)
	require.Zero(t, s.d.Look(t, third).Began, "there is no slot for it")
	require.NotEqual(t, s.last(names[0]).slot, s.last(names[1]).slot)
	s.d.Release(t, names[0])
	s.settled(third)
	s.d.Release(t, names[1])
	for _, n := range names {
		s.settled(n)
	}
}

func manyJobs(t *testing.T, s *stage) {
	s.start()
	var names []string
	for i := range s.f.Jobs {
		names = append(names, s.submit(TestJob{Exit: i % 2}))
	}
	for _, n := range names {
		s.settled(n)
	}
}

func lostAttempt(t *testing.T, s *stage) {
	s.start()
	name := s.submit(TestJob{Waits: true})
	s.running(name)
	s.lose(s.last(name).id)
	s.until("the job is stopped", func() bool { return !s.d.Look(t, name).Running })
	s.until("and discarded", func() bool { return s.last(name).dropped != nil })
	next := s.submit(TestJob{})
	s.settled(next)
}

func lostTwice(t *testing.T, s *stage) {
	s.start()
	require.NoError(t, s.p.Plugin.Lost(t.Context(), NewID(t), "it never was here"))
	name := s.submit(TestJob{Waits: true})
	s.running(name)
	id := s.last(name).id
	for range 3 {
		s.lose(id)
	}
	s.until("discarded", func() bool { return s.last(name).dropped != nil })
	s.lose(id)
	s.again()
	s.lose(id)
}

// endsBesideJob: an agent ends, for an upgrade say, and comes back.
func endsBesideJob(t *testing.T, s *stage) {
	s.start()
	name := s.submit(TestJob{Waits: true})
	s.running(name)
	s.end()
	require.False(t, s.last(name).over(), "ending is no reason to end a job")
	s.start()
	s.d.Release(t, name)
	require.Equal(t, []plugin.Status{plugin.StatusSuccess}, s.settled(name).Ended)
}

func heldUnknown(t *testing.T, s *stage) {
	var ids []snapshot.ID
	for slot := 1; slot <= 2; slot++ {
		tr := &try{id: NewID(t), slot: slot, attached: slot == 2}
		s.a.attempts[tr.id] = tr
		s.a.order = append(s.a.order, tr.id)
		ids = append(ids, tr.id)
	}
	s.start()
	for _, id := range ids {
		s.until("it is discarded", func() bool {
			s.a.mu.Lock()
			defer s.a.mu.Unlock()
			return s.a.attempts[id].dropped != nil
		})
	}
	s.settled(s.submit(TestJob{}))
}
