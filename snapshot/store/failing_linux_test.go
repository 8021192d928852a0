package store

import (
	"context"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// dying is a driver whose disk can fail: a sync of what is in bad says EIO once, as a
// kernel does, and then yes.
type dying struct {
	view.Driver
	mu  sync.Mutex // guards bad
	bad map[snapshot.ID]bool
}

func (d *dying) Sync(ctx context.Context, l *view.Layer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	bad := d.bad[l.ID]
	delete(d.bad, l.ID)
	d.mu.Unlock()
	if bad {
		return syscall.EIO
	}
	return d.Driver.Sync(ctx, l)
}

func (d *dying) fail(ids ...snapshot.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bad = map[snapshot.ID]bool{}
	for _, id := range ids {
		d.bad[id] = true
	}
}

// dyingBench is a store on a disk that can fail. The driver shows only what every
// driver has.
func dyingBench(t *testing.T, driver string) (*bench, *dying) {
	b, d := newBench(t, driver), &dying{}
	b.crash()
	open := b.o.Driver
	b.o.Driver = func(root string) (view.Driver, error) {
		var err error
		d.Driver, err = open(root)
		return d, err
	}
	b.open()
	return b, d
}

func (b *bench) requireSuspect(id snapshot.ID, why string) {
	b.t.Helper()
	in, err := b.Lookup(id)
	require.NoError(b.t, err)
	require.Equal(b.t, Suspect, in.State, in.Err)
	require.Contains(b.t, in.Err, why)
	_, err = b.Prepare(b.t.Context(), b.spec(id))
	require.ErrorIs(b.t, err, snapshot.ErrNotFound)
	_, err = b.Mount(b.t.Context(), id, b.t.TempDir())
	require.ErrorIs(b.t, err, snapshot.ErrNotFound)
}

// A parent whose sync fails takes all that stands on it along: what was sealed, what
// runs at that moment, and what is sealed while the error is noted.
func TestFailedSyncOfAParent(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b, d := dyingBench(t, driver)
		parent := b.job(func(dir string) { write(t, dir+"/f", "x") })
		sealed := b.job(func(dir string) { write(t, dir+"/g", "x") }, parent.ID)
		other := b.job(func(dir string) { write(t, dir+"/other", "x") })
		running, late := b.spec(parent.ID), b.spec(parent.ID)
		for _, p := range []PrepareSpec{running, late} {
			_, err := b.Prepare(t.Context(), p)
			require.NoError(t, err)
		}

		// The last one has looked at its parent, and has no row yet.
		b.mu.Lock()
		v := b.views[late.ID]
		b.mu.Unlock()
		l := b.newLayer(v)
		require.NoError(t, b.Store.driver.Seal(t.Context(), v.v))
		b.inherit(l)
		require.Equal(t, Sealed, l.info.State)

		d.fail(parent.ID)
		b.packed(other.ID)
		b.requireSuspect(parent.ID, "input/output error")
		b.requireSuspect(sealed.ID, string(parent.ID))
		require.NoError(t, b.Failing(), "one failure may be the layer's")

		in, err := b.Seal(t.Context(), running.ID, nil)
		require.NoError(t, err)
		require.Equal(t, Suspect, in.State)
		b.requireSuspect(running.ID, string(parent.ID))
		in, err = b.enter(t.Context(), l, v, nil)
		require.NoError(t, err)
		require.Equal(t, Suspect, in.State)

		// Nor does a restart help: the disk says yes now, and has not what was written.
		b.reopen()
		for _, id := range []snapshot.ID{parent.ID, sealed.ID, running.ID, late.ID} {
			b.requireSuspect(id, "")
		}
		b.packed(other.ID)
	})
}

// An error that comes while whoever asked goes away is not lost.
func TestFailedSyncOfWhoLeft(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b, d := dyingBench(t, driver)
		one := b.job(func(dir string) { write(t, dir+"/f", "x") })
		d.fail(one.ID)
		ctx, cancel := context.WithCancel(t.Context())
		b.mu.Lock()
		l := b.layers[one.ID]
		b.mu.Unlock()
		b.Store.driver = leaving{d, cancel}
		b.sync(ctx, l)
		b.Store.driver = d
		require.Error(t, ctx.Err())
		b.requireSuspect(one.ID, "input/output error")
		b.reopen()
		b.requireSuspect(one.ID, "input/output error")
	})
}

// leaving ends a context when a sync has ended.
type leaving struct {
	view.Driver
	cancel func()
}

func (d leaving) Sync(ctx context.Context, l *view.Layer) error {
	defer d.cancel()
	return d.Driver.Sync(ctx, l)
}

// A disk that fails twice in a row gets no more jobs, until it does not.
func TestFailingDisk(t *testing.T) {
	b, d := dyingBench(t, view.NameCopy)
	a, c := b.job(nil), b.job(nil)
	d.fail(a.ID, c.ID)
	last := b.job(nil)
	stop := b.run()
	require.Eventually(t, func() bool {
		in, err := b.Lookup(last.ID)
		return err == nil && in.Synced
	}, waitMost, tick)
	stop()
	b.requireSuspect(a.ID, "input/output error")
	b.requireSuspect(c.ID, "input/output error")
	require.NoError(t, b.Failing(), "the third one could be synced")

	e, f := b.job(nil), b.job(nil)
	d.fail(e.ID, f.ID)
	b.run()
	require.Eventually(t, func() bool { return b.Failing() != nil }, waitMost, tick)
	require.ErrorIs(t, b.Failing(), syscall.EIO)
}
