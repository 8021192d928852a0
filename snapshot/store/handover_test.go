package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
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
// next one all the same; the power takes it, and what there is of it is deleted,
// unless anything was committed since.
func TestPowerCutOfAnOpenView(t *testing.T) {
	for _, c := range []struct {
		name   string
		since  func(t *testing.T, b *bench)
		listed bool
	}{
		{"at once", func(*testing.T, *bench) {}, false},
		{"after another commit", func(_ *testing.T, b *bench) { b.note("x", []byte("1")) }, true},
		{"when Run has nothing else to do", func(t *testing.T, b *bench) { b.checkpoint(t.Context()) }, true},
		{"after another process", func(_ *testing.T, b *bench) { b.reopen() }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			one := b.job(func(dir string) { write(t, dir+"/f", "x") })
			at := b.redo.at
			p := b.spec(one.ID)
			_, err := b.Prepare(t.Context(), p)
			require.NoError(t, err)
			require.Equal(t, at, b.redo.at, "it waits for no disk")
			c.since(t, b)
			b.powerCut(0)
			var open []OpenView
			for _, v := range b.Views() {
				if !v.Sealed {
					open = append(open, v)
				}
			}
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

// A view that a power cut took, and one that was sealed before it, are told apart.
func TestPowerCutAfterASeal(t *testing.T) {
	b := newBench(t, view.NameCopy)
	p := b.spec()
	_, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	b.crash() // its row is in the WAL alone, and is written back by who comes next
	b.open()
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
