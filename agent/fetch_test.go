package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
)

// line has host b make a line of n snapshots and upload them: each replaces a file that
// the one before made, and adds one.
func line(t *testing.T, f *fake, n int) []*fakeAttempt {
	t.Helper()
	b := newHost(t, f, "b").start()
	var out []*fakeAttempt
	for i := range n {
		c := job(fmt.Sprint("job", i), fmt.Sprintf("head -c 100000 /dev/urandom > big; echo %d | tee f%d > last", i, i))
		if i > 0 {
			c = from(c, out[i-1])
		}
		at := f.give("b", c)
		f.green(at)
		f.durable(at.finish.Output)
		out = append(out, at)
	}
	b.end()
	return out
}

// synced are the snapshots that a host has, by whether they are synced.
func (h *host) synced() map[snapshot.ID]bool {
	out := map[snapshot.ID]bool{}
	for _, in := range h.store.List() {
		if in.State.Usable() {
			out[in.ID] = in.Synced
		}
	}
	return out
}

// Of a line only the last snapshot is fetched: not a byte of what it does not show. It is
// synced behind, and what was fetched is gone on with.
func TestFetchLine(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		made := line(t, f, 4)
		h := newHost(t, f, "a")
		h.driver = driver
		h.start()
		at := f.give("a", from(job("away", "cat f0 f1 f2 last; test $(stat -c %s big) = 100000"), made[2]))
		fin := f.green(at)
		require.Contains(t, f.logOf(at), "\n0\n1\n2\n2\n")
		require.Equal(t, api.SourceStore, fin.Workspace.Source)
		require.Less(t, fin.Workspace.BytesWritten, int64(3*100000), "one of three files of that size, and where a view is a copy, again")
		tip := made[2].finish.Output
		f.wait("what it holds", func() bool { return f.agents["a"].holdings[tip] })
		require.NotContains(t, h.synced(), made[0].finish.Output)
		require.NotContains(t, h.synced(), made[1].finish.Output)
		require.Eventually(t, func() bool { return h.synced()[tip] }, time.Minute, 5*time.Millisecond, "it is never synced")

		// The line goes on there, and here.
		more := f.give("a", from(job("more", "cat last"), made[3]))
		f.green(more)
		require.Contains(t, f.logOf(more), "\n3\n")
		f.wait("what it holds", func() bool { return f.agents["a"].holdings[made[3].finish.Output] })
		in, err := h.store.Lookup(made[3].finish.Output)
		require.NoError(t, err)
		require.Equal(t, tip, in.Base, "only what came since is fetched")
		for _, a := range []*fakeAttempt{at, more} {
			f.durable(a.finish.Output)
		}
		h.end()
		requireNoViews(t, h)
	})
}

// Lines that part meet at a snapshot of its own, and a fan-in finds what its inputs have
// in common.
func TestFetchLinesThatPart(t *testing.T) {
	f := newFake(t)
	made := line(t, f, 3)
	b := newHost(t, f, "b").start()
	left := f.give("b", from(job("left", "echo left > left"), made[2]))
	right := f.give("b", from(job("right", "echo right > right; rm f0"), made[2]))
	f.green(left)
	f.green(right)
	f.durable(left.finish.Output)
	f.durable(right.finish.Output)
	b.end()
	h := newHost(t, f, "a").start()
	at := f.give("a", from(job("join", "cat left right last; test ! -e f0"), left, right))
	f.green(at)
	require.Contains(t, f.logOf(at), "\nleft\nright\n2\n")
	held := h.synced()
	for _, id := range []snapshot.ID{made[2].finish.Output, left.finish.Output, right.finish.Output} {
		require.Contains(t, held, id)
	}
	require.NotContains(t, held, made[0].finish.Output)
	require.NotContains(t, held, made[1].finish.Output)
	f.durable(at.finish.Output)
}

// What several jobs need comes once, and one that waits for another one's fetch is not
// at a standstill.
func TestFetchTurns(t *testing.T) {
	a := &Agent{}
	id := newID
	x, y, z := transfer.LayerRef{ID: id(t)}, transfer.LayerRef{ID: id(t)}, transfer.LayerRef{ID: id(t)}
	f, g := &fetching{at: &attaching{a: a}}, &fetching{at: &attaching{a: a}}
	done, err := f.turn(t.Context(), []transfer.LayerRef{x, y})
	require.NoError(t, err)
	other, err := g.turn(t.Context(), []transfer.LayerRef{z})
	require.NoError(t, err, "it has nothing of that")
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = g.turn(ctx, []transfer.LayerRef{y, z})
	require.ErrorIs(t, err, context.Canceled)
	g.ahead.Store(nil)
	got := make(chan error, 1)
	go func() {
		done, err := g.turn(t.Context(), []transfer.LayerRef{y, z})
		if err == nil {
			done()
		}
		got <- err
	}()
	for g.ahead.Load() != f {
		time.Sleep(time.Millisecond)
	}
	f.meter.Add(7)
	require.EqualValues(t, 7, g.came())
	select {
	case <-got:
		t.Fatal("it did not wait")
	default:
	}
	done()
	require.NoError(t, <-got)
	require.Zero(t, g.came())
	require.Empty(t, a.turns.of)
}

// What it has of the snapshots of a line that it fetched for the last one is told with
// that, now and at the next start.
func TestFetchLineTellsItsParts(t *testing.T) {
	f := newFake(t)
	made := line(t, f, 3)
	h := newHost(t, f, "a").start()
	f.green(f.give("a", from(job("away", "cat last"), made[2])))
	tip := made[2].finish.Output
	requireParts := func(of []api.Part) {
		t.Helper()
		require.Len(t, of, 2)
		for i, p := range of {
			require.Equal(t, made[i].finish.Output, p.ID)
			require.Positive(t, p.Bytes)
			require.Less(t, p.Bytes, int64(1000), "what was replaced is not there")
		}
	}
	f.wait("what it holds", func() bool { return f.agents["a"].holdings[tip] })
	f.mu.Lock()
	requireParts(f.agents["a"].of[tip])
	f.mu.Unlock()
	h.end()
	h.start()
	f.wait("the new start", func() bool { return f.agents["a"].of == nil && len(f.agents["a"].reg.Holdings) > 0 })
	for _, x := range f.agents["a"].reg.Holdings {
		if x.ID == tip {
			requireParts(x.Of)
		} else {
			require.Empty(t, x.Of)
		}
	}
}

// There is room in one message for what all layers say.
func TestHoldingsAreBounded(t *testing.T) {
	list := make([]store.Info, 2000)
	for i := range list {
		list[i] = store.Info{ID: newID(t), State: store.Durable, Of: make([]store.Part, 200)}
	}
	list[5].State = store.Suspect
	got := holdings(list)
	require.Len(t, got, 1999)
	require.Empty(t, got[0].Of)
	require.Len(t, got[1998].Of, api.MaxParts)
	n := 0
	for _, h := range got {
		n += len(h.Of)
	}
	require.Equal(t, maxAllParts, n)
}

// What somebody pulled into a host's store while its agent was away is used, and not
// fetched again: as an input, and under one.
func TestInputsThatAreStoredOnly(t *testing.T) {
	f := newFake(t)
	made := line(t, f, 3)
	h := newHost(t, f, "a").start()
	h.end()
	st, err := store.Open(t.Context(), filepath.Join(h.dir, "store"), h.storeOptions())
	require.NoError(t, err)
	c := f.client()
	fetch := transfer.NewFetcher(transfer.FetcherOptions{Blobs: blob.NewHTTP(c.BlobsURL(), c.Token, nil)})
	for _, m := range made[:2] {
		l := f.durable(m.finish.Output)
		require.NoError(t, st.Pull(t.Context(), store.ImportSpec{
			ID: l.ID, Base: l.Base, Index: l.Index, IndexBytes: l.IndexBytes, Manifest: l.Manifest, DomainKey: f.key,
		}, fetch.Open, nil))
	}
	require.NoError(t, st.Close())
	h.start()
	at := f.give("a", from(job("here", "cat f0 last"), made[1]))
	fin := f.green(at)
	require.Contains(t, f.logOf(at), "\n0\n1\n")
	require.Equal(t, api.SourceLocal, fin.Workspace.Source)
	at = f.give("a", from(job("more", "cat f0 last"), made[2]))
	fin = f.green(at)
	require.Contains(t, f.logOf(at), "\n0\n2\n")
	require.Equal(t, api.SourceMixed, fin.Workspace.Source)
	f.durable(fin.Output)
}
