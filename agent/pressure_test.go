package agent

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

func TestRoom(t *testing.T) {
	const gib = int64(1) << 30
	r := Room{MaxBytes: 100 * gib}.withDefaults()
	disk := func(used, free int64) Disk {
		return Disk{Used: used * gib, Free: free * gib, Total: (used + free) * gib}
	}
	require.LessOrEqual(t, r.over(r.High, disk(900, 100), 90*gib), int64(0))
	require.InDelta(t, float64(20*gib), float64(r.over(r.High, disk(920, 80), 0)), 1000)
	require.Equal(t, 1*gib, r.over(r.High, Disk{}, 91*gib), "the budget counts where the disk is not known")
	require.Equal(t, 11*gib, r.over(r.Low, Disk{}, 91*gib))
	require.LessOrEqual(t, Room{}.withDefaults().over(90, Disk{}, 1<<60), int64(0), "no budget")

	require.Empty(t, r.full(disk(900, 100), 99*gib))
	require.Contains(t, r.full(disk(999, 1), 100*gib), "may have", "the budget is used up")
	require.Empty(t, r.full(disk(999, 1), 0), "1 GiB is enough on a large disk")
	require.NotEmpty(t, r.full(Disk{Used: 999 * gib, Free: gib - 1, Total: 1000 * gib}, 0))
	require.Empty(t, r.full(Disk{Used: 50 << 20, Free: 14 << 20, Total: 64 << 20}, 0), "a twentieth is enough on a small one")
	require.NotEmpty(t, r.full(Disk{Used: 62 << 20, Free: 2 << 20, Total: 64 << 20}, 0))
	require.NotEmpty(t, r.full(Disk{Total: gib, Free: gib, Inodes: 1000, InodesTotal: 1000}, 0))
	require.True(t, Disk{Inodes: 91, InodesTotal: 100}.crowded(90))
	require.False(t, Disk{}.crowded(90))
	require.Equal(t, Room{High: 50, Low: 40}, Room{High: 50, Low: 60}.marks())
}

func (r Room) marks() Room { r = r.withDefaults(); return Room{High: r.High, Low: r.Low} }

// An agent without room takes no job; with room it does. A full disk makes it evict
// what is durable, which the coordinator hears of, and nothing that a job needs.
func TestNoRoomNoJobs(t *testing.T) {
	testenv.Require(t, testenv.Bash)
	f := newFake(t)
	h := newHost(t, f, "host-a")
	var used atomic.Int64 // percent
	h.edit = func(o *Options) {
		o.Room = Room{Every: 20 * time.Millisecond, Disk: func(string) Disk {
			u := used.Load()
			return Disk{Used: u << 30, Free: (100 - u) << 30, Total: 100 << 30}
		}}
	}
	h.start()
	one := f.give("host-a", job("one", "echo x > f"))
	f.green(one)
	two := f.give("host-a", from(job("two", "echo y > g"), one))
	f.green(two)
	id1, id2 := one.finish.Output, two.finish.Output
	f.wait("both are durable", func() bool { return f.layers[id1].Durable && f.layers[id2].Durable })

	used.Store(95)
	time.Sleep(200 * time.Millisecond)
	require.Len(t, h.store.List(), 2, "there is room for jobs: what was just used stays")
	used.Store(100) // whatever goes, it stays there
	f.wait("they are evicted", func() bool {
		for _, a := range f.agents {
			for _, id := range []snapshot.ID{id1, id2} {
				if has, told := a.holdings[id]; has || !told {
					return false
				}
			}
		}
		return true
	})
	require.Empty(t, h.store.List())
	f.wait("the coordinator hears how many", func() bool {
		for _, a := range f.agents {
			if a.evicted[0] == 2 && a.evicted[1] > 0 {
				return true
			}
		}
		return false
	})
	// Requests for work may have been on their way. After those it asks no more.
	var last *fakeAttempt
	require.Eventually(t, func() bool {
		last = f.give("host-a", from(job("last", "test $(cat f g | tr -d '\\n') = xy"), two))
		time.Sleep(400 * time.Millisecond)
		f.mu.Lock()
		defer f.mu.Unlock()
		return !last.accepted
	}, time.Minute, time.Millisecond)
	used.Store(50)
	f.green(last)
}

// failingStore says that its disk fails.
type failingStore struct {
	Store
	failing atomic.Bool
}

func (s *failingStore) Failing() error {
	if s.failing.Load() {
		return syscall.EIO
	}
	return nil
}

// An agent whose disk fails takes no job either.
func TestFailingDiskNoJobs(t *testing.T) {
	testenv.Require(t, testenv.Bash)
	f := newFake(t)
	h := newHost(t, f, "host-a")
	s := &failingStore{}
	s.failing.Store(true)
	h.edit = func(o *Options) {
		s.Store, o.Store, o.Room = o.Store, s, Room{Every: 20 * time.Millisecond}
	}
	h.start()
	var last *fakeAttempt
	require.Eventually(t, func() bool { // as above
		last = f.give("host-a", job("last", "true"))
		time.Sleep(400 * time.Millisecond)
		f.mu.Lock()
		defer f.mu.Unlock()
		return !last.accepted
	}, time.Minute, time.Millisecond)
	s.failing.Store(false)
	f.green(last)
}
