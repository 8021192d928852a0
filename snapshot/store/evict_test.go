package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// made is a layer of the model: what the plan must not get wrong, said once more in
// the plainest words.
type made struct {
	id       snapshot.ID
	needs    []snapshot.ID
	wireBase snapshot.ID
	state    State
	was      State
	used     time.Time
	pinned   bool
	held     bool
	view     bool // a job runs on it
	mounted  bool
	report   bool // its job's end is not reported
	importer bool // an import stands on it
}

// graph draws layers and puts them into a store, without files.
func graph(t *rapid.T, b *bench, now time.Time) []*made {
	var all []*made
	n := rapid.IntRange(1, 14).Draw(t, "layers")
	for i := range n {
		flag := func(name string, one int) bool { return rapid.IntRange(0, one).Draw(t, name) == 0 }
		m := &made{
			id:     newID(b.t),
			state:  rapid.SampledFrom([]State{Durable, Durable, Durable, Durable, Packed, Sealed, Suspect, Broken}).Draw(t, "state"),
			used:   now.Add(-time.Duration(rapid.IntRange(0, 20*24).Draw(t, "hours")) * time.Hour),
			pinned: flag("pinned", 14), held: flag("held", 14), view: flag("view", 14), mounted: flag("mounted", 20),
			report: flag("report", 20), importer: flag("import", 20),
		}
		if m.state == Suspect {
			m.was = rapid.SampledFrom([]State{Durable, Packed, ""}).Draw(t, "was")
		}
		l := &layer{seq: int64(i + 1)}
		l.at.Store(&view.Layer{ID: m.id, Dir: "views/" + string(m.id) + "/u0"})
		l.info = Info{ID: m.id, State: m.state, Synced: true, DiskBytes: int64(rapid.IntRange(0, 1000).Draw(t, "bytes"))}
		if i > 0 && !flag("root", 3) {
			base := all[rapid.IntRange(0, i-1).Draw(t, "base")]
			l.info.Base = base.id
			m.needs = append(m.needs, base.id)
			if !flag("anew", 6) {
				l.info.WireBase, m.wireBase = base.id, base.id
			}
			l.info.Parents = []snapshot.ID{base.id}
			if flag("fanin", 4) {
				other := all[rapid.IntRange(0, i-1).Draw(t, "parent")]
				l.fanin, l.info.Parents = true, append(l.info.Parents, other.id)
				m.needs = append(m.needs, other.id)
			}
		}
		if m.state == Packed || m.state == Durable {
			l.info.Index[0], l.info.Manifest[0] = byte(i+1), byte(i+1)
		}
		l.use = use{used: m.used, pinned: m.pinned, was: m.was}
		all = append(all, m)
		b.layers[m.id] = l
		if m.held {
			b.held[m.id]++
		}
		if m.view {
			id := newID(b.t)
			b.views[id] = &openView{id: id, stands: []snapshot.ID{m.id}}
		}
		if m.mounted {
			l.mounts = append(l.mounts, l.place())
		}
		if m.report {
			b.views[m.id] = &openView{id: m.id, sealed: true}
		}
		if m.importer {
			id := newID(b.t)
			b.imports[id] = &importing{id: id, base: m.id}
		}
	}
	return all
}

// may says of each layer whether it may go: by itself, and because all that stand
// on it may.
func may(all []*made, spec EvictSpec, now time.Time, refused map[snapshot.ID]bool) map[snapshot.ID]bool {
	byID := map[snapshot.ID]*made{}
	for _, m := range all {
		byID[m.id] = m
	}
	durable := func(m *made) bool {
		for ; m != nil; m = byID[m.wireBase] {
			if m.state != Durable {
				return false
			}
		}
		return true
	}
	ok := map[snapshot.ID]bool{}
	for _, m := range all {
		usable := m.state == Durable || m.state == Packed || m.state == Sealed
		switch {
		case m.pinned, m.held && usable, m.view, m.mounted, m.report, m.importer:
		case !spec.Before.IsZero() && !m.used.Before(spec.Before):
		case m.state == Durable:
			ok[m.id] = durable(m) && !refused[m.id]
		case m.state == Broken:
			ok[m.id] = true
		case m.state == Suspect:
			ok[m.id] = m.was == Durable && !refused[m.id] || spec.Damaged || now.Sub(m.used) >= 7*24*time.Hour
		}
	}
	for i := len(all) - 1; i >= 0; i-- { // what stands on others comes after them
		for _, n := range all[i].needs {
			if !ok[all[i].id] {
				ok[n] = false
			}
		}
	}
	return ok
}

// modelBench is a store for layers without files.
func modelBench(t *testing.T, now time.Time) *bench {
	b := &bench{t: t, dir: filepath.Join(t.TempDir(), "store"), driver: view.NameCopy}
	b.o = Options{
		BootID: "boot-1", ReserveBytes: 4096, Now: func() time.Time { return now },
		Driver: func(r string) (view.Driver, error) { return view.Open(view.NameCopy, r, view.Options{}) },
	}
	b.open()
	_, err := b.db.Exec("PRAGMA synchronous=OFF")
	require.NoError(t, err)
	b.Store.driver = noFiles{b.Store.driver}
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// noFiles is a driver for layers that there are rows of alone.
type noFiles struct{ view.Driver }

func (noFiles) Remove(context.Context, *view.Layer) error { return nil }

// TestEvictProperty: whatever stands on what, and whatever somebody needs: eviction
// takes all that may go, if it is asked to, and never anything else.
func TestEvictProperty(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := modelBench(t, now)
	rapid.Check(t, func(rt *rapid.T) {
		clear(b.layers)
		clear(b.views)
		clear(b.imports)
		clear(b.held)
		_, err := b.db.Exec("DELETE FROM layers")
		require.NoError(rt, err)
		all := graph(rt, b, now)
		spec := EvictSpec{Damaged: rapid.Bool().Draw(rt, "damaged")}
		if rapid.Bool().Draw(rt, "older") {
			spec.Before = now.Add(-time.Duration(rapid.IntRange(0, 15*24).Draw(rt, "before")) * time.Hour)
		}
		refused := map[snapshot.ID]bool{}
		for _, m := range all {
			refused[m.id] = rapid.IntRange(0, 9).Draw(rt, "refused") == 0
		}
		spec.Confirm = func(_ context.Context, id snapshot.ID, _ []Blob) error {
			if refused[id] {
				return snapshot.ErrNotFound
			}
			return nil
		}
		want := int64(-1)
		if rapid.Bool().Draw(rt, "enough") {
			want = int64(rapid.IntRange(0, 3000).Draw(rt, "want"))
			spec.Enough = func(freed int64) bool { return freed >= want }
		}
		ok := may(all, spec, now, refused)

		dry := spec
		dry.DryRun = true
		would, err := b.Evict(t.Context(), dry)
		require.NoError(rt, err)
		require.Len(rt, b.layers, len(all), "a dry run removes nothing")
		got, err := b.Evict(t.Context(), spec)
		require.NoError(rt, err)
		require.Equal(rt, would, got, "a dry run says what would be done")

		var freed int64
		for i, e := range got.Evicted {
			require.True(rt, ok[e.ID], "%s must not go", e.ID)
			require.NotContains(rt, b.layers, e.ID)
			if want >= 0 {
				require.Less(rt, freed, want, "eviction %d was too many", i)
			}
			freed += e.Bytes
		}
		require.Equal(rt, freed, got.Freed)
		for _, m := range all {
			l, here := b.layers[m.id]
			require.True(rt, here || ok[m.id])
			if !here {
				continue
			}
			for _, n := range m.needs {
				require.Contains(rt, b.layers, n, "%s stands on it", l.info.ID)
			}
			if want < 0 || freed < want {
				require.False(rt, ok[m.id], "%s should have gone", m.id)
			}
		}
	})
}

func TestEvictOrder(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := modelBench(t, now)
	var names []string
	ids := map[snapshot.ID]string{}
	add := func(name string, st State, base string, bytes int64, ago time.Duration) {
		l := &layer{seq: int64(len(names) + 1), info: Info{ID: newID(t), State: st, Synced: true, DiskBytes: bytes}}
		l.at.Store(&view.Layer{ID: l.info.ID, Dir: "views/" + string(l.info.ID) + "/u0"})
		for id, n := range ids {
			if n == base {
				l.info.Base, l.info.WireBase = id, id
			}
		}
		l.use = use{used: now.Add(-ago)}
		ids[l.info.ID], names = name, append(names, name)
		require.NoError(t, b.commit(t.Context(), func(ctx context.Context, tx *txn) error { return b.insertLayer(ctx, tx, l) }))
		l.info.Made = l.use.used
		b.layers[l.info.ID] = l
	}
	add("old base", Durable, "", 100, 100*time.Hour)
	add("old leaf", Durable, "old base", 10, 90*time.Hour)
	add("older and small", Durable, "", 5, 95*time.Hour)
	add("new", Durable, "", 500, time.Hour)
	add("broken", Broken, "", 1, time.Minute)
	add("only copy", Packed, "", 1000, 500*time.Hour)
	add("durable above", Durable, "only copy", 7, 500*time.Hour)
	r, err := b.Evict(t.Context(), EvictSpec{})
	require.NoError(t, err)
	var order []string
	for _, e := range r.Evicted {
		order = append(order, ids[e.ID])
	}
	require.Equal(t, []string{"broken", "old leaf", "old base", "older and small", "new"}, order)
	require.Len(t, r.Kept, 1)
	require.Equal(t, []Kept{{Reason: KeptOnlyCopy, Layers: 2, Bytes: 1007, Example: r.Kept[0].Example}}, r.Kept)
	require.Equal(t, "only copy", ids[r.Kept[0].Example])
	require.EqualValues(t, 1007, b.Usage())
}

// What a job was promised can't go between the promise and the view.
func TestHold(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	require.NoError(t, b.Reported(t.Context(), one.ID))
	b.packed(one.ID)
	require.NoError(t, b.MarkDurable(t.Context(), one.ID))
	release, err := b.Hold(t.Context(), one.ID, newID(t))
	require.NoError(t, err)
	require.ErrorIs(t, b.Remove(t.Context(), one.ID), snapshot.ErrBusy)
	r, err := b.Evict(t.Context(), EvictSpec{})
	require.NoError(t, err)
	require.Empty(t, r.Evicted)
	require.Equal(t, KeptHold, r.Kept[0].Reason)
	release()
	release()
	require.Empty(t, b.held)

	// One that comes while the layer is being removed waits for the end of that.
	f := &slow{Driver: b.Store.driver, begun: make(chan struct{}), end: make(chan struct{})}
	b.Store.driver = f
	removed := make(chan error, 1)
	go func() { removed <- b.Remove(context.WithoutCancel(t.Context()), one.ID) }()
	<-f.begun
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = b.Hold(short, one.ID)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(f.end)
	release, err = b.Hold(t.Context(), one.ID)
	require.NoError(t, err)
	require.NoError(t, <-removed)
	_, err = b.Lookup(one.ID)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	release()
	require.Empty(t, b.held)
}

// slow is a driver whose Remove waits.
type slow struct {
	view.Driver
	begun, end chan struct{}
}

func (s *slow) Remove(ctx context.Context, l *view.Layer) error {
	close(s.begun)
	<-s.end
	return s.Driver.Remove(ctx, l)
}

// Uses outlive the process, and so do pins.
func TestUseIsKept(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := newBench(t, overlayOrCopy(t))
	b.o.Now = func() time.Time { return now }
	b.reopen()
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	require.NoError(t, b.Reported(t.Context(), one.ID))
	b.packed(one.ID)
	require.NoError(t, b.MarkDurable(t.Context(), one.ID))
	now = now.Add(100 * time.Hour)
	two := b.job(nil, one.ID) // stands on it: a use
	require.NoError(t, b.Reported(t.Context(), two.ID))
	require.NoError(t, b.Drop(t.Context(), two.ID))
	b.reopen()
	now = now.Add(time.Hour)
	before := EvictSpec{Before: now.Add(-2 * time.Hour)}
	r, err := b.Evict(t.Context(), before)
	require.NoError(t, err)
	require.Empty(t, r.Evicted)
	require.Equal(t, KeptRecent, r.Kept[0].Reason)
	require.NoError(t, b.Pin(t.Context(), one.ID, true))
	require.ErrorIs(t, b.Pin(t.Context(), newID(t), true), snapshot.ErrNotFound)
	b.reopen()
	r, err = b.Evict(t.Context(), EvictSpec{})
	require.NoError(t, err)
	require.Equal(t, KeptPinned, r.Kept[0].Reason)
	require.NoError(t, b.Pin(t.Context(), one.ID, false))
	r, err = b.Evict(t.Context(), EvictSpec{DryRun: true, Confirm: func(context.Context, snapshot.ID, []Blob) error { return errors.New("down") }})
	require.NoError(t, err)
	require.Equal(t, []snapshot.ID{one.ID}, r.Unconfirmed)
	r, err = b.Evict(t.Context(), EvictSpec{})
	require.NoError(t, err)
	require.Len(t, r.Evicted, 1)
	require.Equal(t, EvictDurable, r.Evicted[0].Reason)
	require.Empty(t, b.List())
}

// A damaged layer goes when the blob store says that it has a good copy, and not because
// a row once said so: what is good of it may be all that there is.
func TestEvictDamagedAsks(t *testing.T) {
	b := newBench(t, view.NameCopy)
	in := b.job(func(dir string) { write(t, dir+"/f", "precious") })
	b.packed(in.ID)
	require.NoError(t, b.MarkDurable(t.Context(), in.ID))
	require.NoError(t, b.Reported(t.Context(), in.ID))
	b.fallen(t.Context(), b.layers[in.ID], errors.New("damaged: a file"))
	has := false
	spec := EvictSpec{Confirm: func(context.Context, snapshot.ID, []Blob) error {
		if has {
			return nil
		}
		return snapshot.ErrNotFound
	}}
	r, err := b.Evict(t.Context(), spec)
	require.NoError(t, err)
	require.Empty(t, r.Evicted)
	require.Equal(t, []snapshot.ID{in.ID}, r.Unconfirmed)
	require.Contains(t, b.layers, in.ID)
	has = true
	r, err = b.Evict(t.Context(), spec)
	require.NoError(t, err)
	require.Len(t, r.Evicted, 1)
	require.NotContains(t, b.layers, in.ID)
}
