package store

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/view"
)

// A job's end and the begin of the next one wait for nobody's tree: neither for that
// of what the job stood on, nor for its own.
func TestHandOverNeedsNoTree(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b := newBench(t, view.NameOverlay)
	one := b.job(func(dir string) { write(t, dir+"/a", "12345") })
	b.requireTree(one.ID)
	b.trees.drop(one.ID)
	_, never, mine := b.trees.enter(one.ID) // somebody who makes the tree, and never comes to an end
	require.True(t, mine)
	two := b.job(func(dir string) { write(t, dir+"/b", "678") }, one.ID)
	require.Equal(t, Sealed, two.State)
	require.Zero(t, two.TreeBytes, "not known yet")
	p := b.spec(two.ID)
	a, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.EqualValues(t, 8, a.TreeBytes)
	require.Equal(t, "12345", read(t, a.Target+"/a"))
	write(t, a.Target+"/b", "9")
	three, err := b.Seal(t.Context(), p.ID, nil)
	require.NoError(t, err)
	q := b.spec(three.ID)
	a, err = b.Prepare(t.Context(), q)
	require.NoError(t, err)
	require.EqualValues(t, 9, a.TreeBytes, "at most")
	require.NoError(t, b.Discard(t.Context(), q.ID))
	require.False(t, ended(never))

	never.err = errClosed
	b.trees.leave(one.ID, never)
	m, err := b.Tree(t.Context(), three.ID)
	require.NoError(t, err)
	require.EqualValues(t, 6, m.Bytes())
	in, err := b.Lookup(three.ID)
	require.NoError(t, err)
	require.EqualValues(t, 6, in.TreeBytes, "now it is known")
}

func ended(b *building) bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// A view is ready before the disk has its row. A process that dies leaves it to the
// next one all the same; the power takes it if it goes at once, and what there is of it is
// deleted.
func TestPowerCutOfAnOpenView(t *testing.T) {
	for _, c := range []struct {
		name   string
		cut    func(t *testing.T, b *bench, back func())
		listed bool
	}{
		{"at once", func(_ *testing.T, b *bench, back func()) { b.powerCutNow(0, back) }, false},
		{"moments later", func(_ *testing.T, b *bench, back func()) { back(); b.powerCut(0) }, true},
		{"after another commit", func(_ *testing.T, b *bench, back func()) {
			back()
			b.note("x", []byte("1"))
			b.powerCutNow(0, func() {})
		}, true},
		{"after another process", func(_ *testing.T, b *bench, back func()) {
			back()
			b.reopen()
			b.powerCutNow(0, func() {})
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			one := b.job(func(dir string) { write(t, dir+"/f", "x") })
			at := b.recorded()
			back := b.slowDisk()
			p := b.spec(one.ID)
			_, err := b.Prepare(t.Context(), p)
			require.NoError(t, err)
			require.Equal(t, at, b.redo.at, "it waits for no disk")
			c.cut(t, b, back)
			open := b.openViews()
			_, err = os.Lstat(filepath.Join(b.dir, "views", string(p.ID)))
			if !c.listed {
				require.Empty(t, open)
				require.ErrorIs(t, err, os.ErrNotExist)
			} else {
				require.NoError(t, err)
				require.Equal(t, []OpenView{{ID: p.ID, Claim: []byte("claim")}}, open)
				require.NoError(t, b.Discard(t.Context(), p.ID))
			}
			two := b.job(func(dir string) { write(t, dir+"/g", "y") }, one.ID)
			b.powerCut(0)
			in, err := b.Lookup(two.ID)
			require.NoError(t, err, "what is sealed stays")
			require.Equal(t, two.Made, in.Made)
			require.Len(t, b.Views(), 2)
		})
	}
}

// openViews lists the views that are open.
func (b *bench) openViews() (open []OpenView) {
	for _, v := range b.Views() {
		if !v.Sealed {
			open = append(open, v)
		}
	}
	return open
}

// A seal is acknowledged before the disk has its row. What the power takes then is as
// if its job had never ended, for that layer and for all that came after it, and the
// names in the store are free for others.
func TestPowerCutBehindASeal(t *testing.T) {
	for _, c := range []struct {
		name string
		open int // views that are left to be discarded
	}{{"the view's row too", 0}, {"of a view that is known", 1}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			zero := b.job(func(dir string) { write(t, dir+"/z", "0") })
			b.recorded()
			back := b.slowDisk()
			p := b.spec(zero.ID)
			a, err := b.Prepare(t.Context(), p)
			require.NoError(t, err)
			write(t, a.Target+"/f", "x")
			if c.open > 0 {
				back()
				b.recorded()
				back = b.slowDisk()
			}
			one, err := b.Seal(t.Context(), p.ID, []byte("green"))
			require.NoError(t, err)
			require.Equal(t, Sealed, one.State)
			two := b.job(func(dir string) { write(t, dir+"/g", "y") }, one.ID)
			b.requireTree(two.ID)
			seq := b.layers[one.ID].seq
			b.powerCutNow(0, back)

			require.Len(t, b.List(), 1)
			require.Len(t, b.openViews(), c.open)
			for _, v := range b.openViews() {
				require.Equal(t, OpenView{ID: one.ID, Claim: []byte("claim")}, v)
				_, err := b.Seal(t.Context(), v.ID, nil)
				require.Error(t, err, "nobody knows what its job did last")
				require.NoError(t, b.Discard(t.Context(), v.ID))
			}
			for _, id := range []snapshot.ID{one.ID, two.ID} {
				_, err = b.Lookup(id)
				require.ErrorIs(t, err, snapshot.ErrNotFound)
				_, err = b.Prepare(t.Context(), b.spec(id))
				var missing *MissingError
				require.ErrorAs(t, err, &missing)
			}
			left, err := os.ReadDir(filepath.Join(b.dir, "views"))
			require.NoError(t, err)
			require.Len(t, left, 1, "what is left of them is deleted")

			three := b.job(func(dir string) { write(t, dir+"/h", "w") }, zero.ID)
			require.Equal(t, seq, b.layers[three.ID].seq)
			b.powerCut(0)
			require.Len(t, b.List(), 2)
			b.requireTree(three.ID)
		})
	}
}

// The disk has a row moments after it was acknowledged, though nobody waits for it and
// nothing follows.
func TestRecordsFollow(t *testing.T) {
	b := newBench(t, view.NameCopy)
	follow := func(what string) {
		r := b.redo
		require.Eventually(t, func() bool {
			r.writing.Lock()
			defer r.writing.Unlock()
			b.committing.Lock()
			defer b.committing.Unlock()
			return r.durable == r.last
		}, waitMost, tick, what)
	}
	p := b.spec()
	_, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	follow("prepare")
	_, err = b.Seal(t.Context(), p.ID, nil)
	require.NoError(t, err)
	follow("seal")
	var wg sync.WaitGroup
	for range 20 { // beside others that wait
		b.job(nil, p.ID)
		wg.Go(func() { b.note("x", []byte{1}) })
	}
	wg.Wait()
	follow("all")
	b.powerCutNow(0, func() {})
	require.Len(t, b.List(), 21)
}

// What says more than a seal is not said before the disk has its row, and then all that
// came before it is there too.
func TestWaitsForTheDisk(t *testing.T) {
	for name, do := range map[string]func(b *bench, id snapshot.ID) error{
		"settled":  func(b *bench, _ snapshot.ID) error { return b.Settle(b.t.Context()) },
		"reported": func(b *bench, id snapshot.ID) error { return b.Reported(b.t.Context(), id) },
		"synced":   func(b *bench, id snapshot.ID) error { b.sync(b.t.Context(), b.layers[id]); return nil },
		"pinned":   func(b *bench, id snapshot.ID) error { return b.Pin(b.t.Context(), id, true) },
		"removed":  func(b *bench, id snapshot.ID) error { return b.Drop(b.t.Context(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			b.recorded()
			back := b.slowDisk()
			one := b.job(func(dir string) { write(t, dir+"/f", "x") })
			before, done := b.commits.Load(), make(chan error, 1)
			go func() { done <- do(b, one.ID) }()
			require.Eventually(t, func() bool { return name == "settled" || b.commits.Load() > before }, waitMost, tick)
			select {
			case err := <-done:
				t.Fatal("it was said before the disk had it", err)
			default:
			}
			b.mu.Lock()
			l := b.layers[one.ID]
			require.False(t, l.info.Synced || l.use.pinned)
			require.True(t, b.views[one.ID].sealed)
			b.mu.Unlock()
			_, err := os.Lstat(filepath.Join(b.dir, "views", string(one.ID)))
			require.NoError(t, err, "nothing goes before")
			back()
			require.NoError(t, <-done)
			b.powerCutNow(0, func() {})
			in, err := b.Lookup(one.ID)
			if name == "removed" {
				require.ErrorIs(t, err, snapshot.ErrNotFound)
				return
			}
			require.NoError(t, err)
			require.Equal(t, name == "synced", in.Synced)
			require.Equal(t, name != "reported", len(b.Views()) == 1)
		})
	}
}

// Wherever the log ends when the power goes, what is left stands on what is left, and
// the store goes on from there.
func TestPowerCutAtAnyRecord(t *testing.T) {
	t.Parallel()
	b := newBench(t, view.NameCopy)
	b.reopen() // all so far is in the database itself
	disk, err := os.ReadFile(filepath.Join(b.dir, "store.db"))
	require.NoError(t, err)
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	two := b.job(func(dir string) { write(t, dir+"/g", "y") }, one.ID)
	b.sync(t.Context(), b.layers[one.ID])
	require.NoError(t, b.Reported(t.Context(), one.ID))
	three := b.job(func(dir string) { write(t, dir+"/h", "z") }, one.ID, two.ID)
	require.NoError(t, b.Drop(t.Context(), three.ID))
	four := b.job(func(dir string) { write(t, dir+"/i", "w") }, two.ID)
	require.NoError(t, b.Pin(t.Context(), four.ID, true))
	end := b.recorded()
	log, err := os.ReadFile(filepath.Join(b.dir, "redo"))
	require.NoError(t, err)
	files := os.DirFS(b.dir)
	for cut := int64(0); cut <= end; cut += redoPage {
		dir := filepath.Join(t.TempDir(), "store")
		for _, name := range []string{"views", "manifests", "packs", "indexes"} {
			from, err := fs.Sub(files, name)
			require.NoError(t, err)
			require.NoError(t, os.CopyFS(filepath.Join(dir, name), from))
		}
		require.NoError(t, os.Chmod(dir, 0o700))
		short := slices.Clone(log)
		clear(short[cut:])
		require.NoError(t, os.WriteFile(filepath.Join(dir, "redo"), short, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "store.db"), disk, 0o600))
		c := benchAt(t, dir, view.NameCopy)
		held := map[snapshot.ID]bool{"": true}
		for _, in := range c.List() {
			require.True(t, held[in.Base], "%s stands on nothing", in.ID)
			require.NotEqual(t, Broken, in.State)
			held[in.ID] = true
		}
		for _, v := range c.Views() {
			require.Equal(t, v.Sealed, held[v.ID], "a sealed view is a layer, an open one is none")
		}
		five := c.job(func(dir string) { write(t, dir+"/j", "v") })
		c.powerCut(0)
		_, err := c.Lookup(five.ID)
		require.NoError(t, err)
		if cut == end {
			in, err := c.Lookup(four.ID)
			require.NoError(t, err)
			require.True(t, c.layers[four.ID].use.pinned)
			require.Equal(t, two.ID, in.Base)
		}
	}
}

// A view that a power cut took, and one that was sealed before it, are told apart.
func TestPowerCutAfterASeal(t *testing.T) {
	b := newBench(t, view.NameCopy)
	p := b.spec()
	_, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	b.reopen()
	require.NoError(t, b.Discard(t.Context(), p.ID))
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	b.powerCut(0)
	views := b.Views()
	require.Len(t, views, 1)
	require.Equal(t, OpenView{ID: one.ID, Claim: []byte("claim"), Sealed: true, Outcome: []byte("green")}, views[0])
}

// watched is a driver that looks at the gate while it mounts and unmounts.
type watched struct {
	view.Driver
	gate func() bool
	held []bool
}

func (w *watched) Prepare(ctx context.Context, spec view.Spec) (*view.View, error) {
	w.held = append(w.held, w.gate())
	return w.Driver.Prepare(ctx, spec)
}

func (w *watched) Seal(ctx context.Context, v *view.View) error {
	w.held = append(w.held, w.gate())
	return w.Driver.Seal(ctx, v)
}

// shut reports whether work behind would stand aside now.
func (b *bench) shut() bool {
	return quiet.Held(quiet.Aside(b.t.Context(), &b.gate))
}

// Work behind stands aside from when a job's end or begin has nothing of it to wait
// for, until it is over; and comes to its end if that never is.
func TestWorkBehindStandsAside(t *testing.T) {
	b := newBench(t, view.NameCopy)
	w := &watched{Driver: b.Store.driver, gate: b.shut}
	b.Store.driver = w
	one := b.job(func(dir string) { write(t, dir+"/a", "1") })
	require.Equal(t, []bool{true, true}, w.held)
	require.False(t, b.shut())
	_, err := b.Seal(t.Context(), newID(t), nil)
	require.Error(t, err)
	p := b.spec(one.ID)
	p.Target = "not absolute"
	_, err = b.Prepare(t.Context(), p)
	require.Error(t, err)
	require.False(t, b.shut(), "nor after an error")
	defer b.gate.Hold()()
	require.Equal(t, Packed, b.packed(one.ID)[0].State)
}
