package agent

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot/store"
)

// another is a second agent on the store of a host's own, whose methods the test calls.
// The first has ended what an earlier process left, so that it lets go no view of the test's.
func (h *host) another() *Agent {
	var o Options
	ready := make(chan struct{})
	h.edit = func(used *Options) {
		o = *used
		used.Ready = func() { close(ready) }
	}
	h.start()
	select {
	case <-ready:
	case err := <-h.done:
		h.t.Fatalf("agent %s: %v", h.name, err)
	}
	a, err := New(o)
	require.NoError(h.t, err)
	return a
}

// TestSlotIsFreeBeforeTheRows: a slot is free when the end of its job is known.
// The rows that follow wait for the disk, and the next job should not.
func TestSlotIsFreeBeforeTheRows(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a")
	a := h.another()

	at := f.give("nowhere", job("j", "true")) // nobody takes it but us
	id := at.claim.Attempt
	_, err := h.store.Prepare(t.Context(), store.PrepareSpec{
		ID: id, Target: filepath.Join(t.TempDir(), "view"), DomainKey: f.key, Claim: []byte("{}"),
	})
	require.NoError(t, err)
	_, err = h.store.Seal(t.Context(), id, []byte("{}"))
	require.NoError(t, err)
	freed := 0
	a.finish(t.Context(), api.AttemptRef{Attempt: id, Epoch: at.claim.Epoch}, api.Finish{Status: api.StatusSuccess}, true, func() {
		freed++
		require.NotNil(t, at.finish, "the coordinator knows")
		require.Len(t, h.store.Views(), 1, "the rows are as they were")
	})
	require.Equal(t, 1, freed)
	require.Empty(t, h.store.Views())
}

// TestReleaseTwice: the second release does not free the slot of the next job.
func TestReleaseTwice(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a")
	a := h.another()
	one, two := &running{slot: 1}, &running{slot: 1}
	one.ref.Attempt, two.ref.Attempt = newID(t), newID(t)
	a.running[one.ref.Attempt], a.slots[0] = one, true
	a.release(one)
	a.running[two.ref.Attempt], a.slots[0] = two, true
	a.release(one)
	require.True(t, a.slots[0])
	a.release(two)
	require.False(t, a.slots[0])
}
