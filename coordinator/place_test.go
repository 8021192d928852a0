package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/api"
)

// affinity may not import the interface; its words are the same ones.
func TestCodesAgree(t *testing.T) {
	for a, b := range map[affinity.Code]api.Code{
		affinity.Continuation: api.PlacedContinuation, affinity.Cheapest: api.PlacedCheapest, affinity.OnlyHost: api.PlacedOnly,
		affinity.NoInput: api.PlacedNoInput, affinity.Overdue: api.PlacedOverdue, affinity.WaitSlot: api.WaitSlot,
		affinity.WaitHost: api.WaitHost, affinity.WaitHolder: api.WaitHolder, affinity.WaitUpload: api.WaitUpload,
	} {
		require.Equal(t, string(b), string(a))
	}
}

func TestQueueTimeout(t *testing.T) {
	b := newBench(t, func(o *Options) { o.QueueTimeout = time.Minute })
	p := b.submit(single)
	require.Equal(t, api.WaitHost, b.job(p, "job").Code)
	b.advance(58 * time.Second)
	require.Equal(t, api.StatusQueued, b.job(p, "job").Status)
	b.advance(4 * time.Second)
	j := b.job(p, "job")
	require.Equal(t, api.StatusFailed, j.Status)
	require.Equal(t, api.FailTimeout, j.Code)
	require.Contains(t, j.Reason, "no host is there")
}

// A job waits for the host that has its files when that is cheaper, says so, and
// stops waiting at its bound.
func TestWaitsForHolder(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	p := b.submit(`
stages: [one, two]
base: {stage: one, script: x}
l: {stage: two, script: x}
r: {stage: two, script: x}
`)
	out := a.run("base")
	a.upload(out, "", 50<<30) // 50 GiB: minutes away from anywhere else
	l := a.claim()
	a.begin(l)
	z := b.newHost("z", 1)
	require.Empty(t, z.poll())
	r := b.job(p, "r")
	require.Equal(t, api.WaitHolder, r.Code)
	require.Contains(t, r.Reason, "a has its files")
	require.NotEmpty(t, r.Placed.Candidates)
	for range 40 {
		b.advance(10 * time.Second)
		a.beat(func(h *api.Heartbeat) { h.Attempts = []api.AttemptRef{ref(l)} })
		z.beat()
		if cs := z.poll(); len(cs) == 1 {
			require.Contains(t, []api.Code{api.PlacedOverdue, api.PlacedCheapest}, b.job(p, "r").Placed.Code)
			return
		}
	}
	t.Fatal("r still waits")
}

// Tags decide first.
func TestTags(t *testing.T) {
	b := newBench(t)
	a, z := b.newHost("a", 1), b.newHost("z", 1, "gpu", "linux")
	p := b.submit("x:\n  script: x\n  tags: [gpu]\ny:\n  script: x\n  tags: [windows]\n")
	require.Empty(t, a.poll())
	require.Equal(t, "x", z.claim().Job.Name)
	y := b.job(p, "y")
	require.Equal(t, api.WaitHost, y.Code)
	require.Contains(t, y.Reason, "windows")
}

// A host is not given more than it asks for.
func TestFreeSlots(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 4)
	a.free = 1
	require.Empty(t, a.poll())
	p := b.submit("x:\n  script: x\n  parallel: 4\n")
	c := a.claim()
	a.begin(c)
	a.free = 0
	require.Empty(t, a.poll())
	got, err := b.user.Pipeline(t.Context(), p.ID)
	require.NoError(t, err)
	n := 0
	for _, j := range got.Jobs {
		if j.Status == api.StatusQueued {
			n++
			require.Equal(t, api.WaitSlot, j.Code)
		}
	}
	require.Equal(t, 3, n)
}
