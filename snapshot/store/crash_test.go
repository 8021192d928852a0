package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// The process dies between two steps: the steps are taken one by one here, then
// the store is opened again. That the same holds for kill -9 at every fail.Point is
// tested with real processes in integration.

func TestDeathInPrepare(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		for name, die := range map[string]func(b *bench, v *openView, spec view.Spec){
			"after the row": func(*bench, *openView, view.Spec) {},
			"after the driver": func(b *bench, _ *openView, spec view.Spec) {
				_, err := b.Store.driver.Prepare(t.Context(), spec)
				require.NoError(b.t, err)
				write(t, spec.Target+"/f", "written")
			},
			"after the driver's seal": func(b *bench, _ *openView, spec view.Spec) {
				v, err := b.Store.driver.Prepare(t.Context(), spec)
				require.NoError(b.t, err)
				write(t, spec.Target+"/f", "written")
				require.NoError(b.t, b.Store.driver.Seal(t.Context(), v))
			},
			"after the driver's discard": func(b *bench, _ *openView, spec view.Spec) {
				v, err := b.Store.driver.Prepare(t.Context(), spec)
				require.NoError(b.t, err)
				require.NoError(b.t, b.Store.driver.Discard(t.Context(), v))
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newBench(t, driver)
				base := b.job(func(dir string) { write(t, dir+"/base", "x") })
				p := b.spec(base.ID)
				v := &openView{id: p.ID, target: p.Target, claim: p.Claim}
				require.NoError(t, b.insertView(t.Context(), v))
				die(b, v, view.Spec{ID: p.ID, Target: p.Target, Base: b.layers[base.ID].place()})
				b.reopen()
				requireNoMounts(t, p.Target)
				require.Equal(t, []OpenView{{ID: p.ID, Claim: p.Claim}}, openOnly(b.Views()))
				_, err := b.Lookup(p.ID)
				require.ErrorIs(t, err, snapshot.ErrNotFound)
				require.NoError(t, b.Discard(t.Context(), p.ID))
				entries, err := os.ReadDir(filepath.Join(b.dir, "views"))
				require.NoError(t, err)
				require.Len(t, entries, 1)
				require.Equal(t, string(base.ID), entries[0].Name())
				b.requireTree(base.ID)
			})
		}
	})
}

func TestDeathInPacking(t *testing.T) {
	for name, die := range map[string]func(b *bench, l *layer){
		"after the packs": func(b *bench, l *layer) {
			_, err := b.encode(ctxOf(b.t), l)
			require.NoError(b.t, err)
		},
		"before the row": func(b *bench, l *layer) {
			e, err := b.encode(ctxOf(b.t), l)
			require.NoError(b.t, err)
			_, err = b.db.Exec("CREATE TRIGGER die BEFORE UPDATE ON layers BEGIN SELECT RAISE(ABORT, 'dead'); END")
			require.NoError(b.t, err)
			require.ErrorContains(b.t, b.savePacked(ctxOf(b.t), l, e), "dead")
			_, err = b.db.Exec("DROP TRIGGER die")
			require.NoError(b.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, overlayOrCopy(t))
			one := b.job(func(dir string) { write(t, dir+"/f", "some content") })
			die(b, b.layers[one.ID])
			entries, err := os.ReadDir(filepath.Join(b.dir, "packs"))
			require.NoError(t, err)
			require.NotEmpty(t, entries)
			b.reopen()
			for _, d := range []string{"packs", "indexes", "tmp"} {
				entries, err := os.ReadDir(filepath.Join(b.dir, d))
				require.NoError(t, err)
				require.Empty(t, entries, d)
			}
			in := b.packed(one.ID)[0]
			require.Equal(t, Packed, in.State)
			require.NoError(t, b.Verify(t.Context(), one.ID))
		})
	}
}

func TestDeathInImport(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src, dst := newBench(t, driver), newBench(t, driver)
		one := src.job(func(dir string) { write(t, dir+"/f", "some content") })
		src.packed(one.ID)
		r := newRemote(t)
		spec := r.upload(src, one.ID)
		ix, err := src.readIndex(spec.Index)
		require.NoError(t, err)
		_, err = dst.Store.driver.Unpack(t.Context(), spec.ID, nil, ix.Changes, func(context.Context, view.WriteFunc) error { return nil }, nil)
		require.NoError(t, err)
		dst.reopen()
		entries, err := os.ReadDir(filepath.Join(dst.dir, "views"))
		require.NoError(t, err)
		require.Empty(t, entries)
		require.NoError(t, dst.Import(t.Context(), spec, r.open, nil))
		require.Equal(t, src.requireTree(one.ID), dst.requireTree(one.ID))
	})
}

// A commit that says no but reaches the disk after all: the layer's row is there,
// the process did not know. Sealing or discarding again must work.
func TestCommitThatSaidNo(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	for _, again := range []string{"seal", "discard"} {
		p := b.spec()
		_, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		require.NoError(t, b.insertSealed(t.Context(), b.newLayer(b.views[p.ID]), nil))
		if again == "seal" {
			in, err := b.Seal(t.Context(), p.ID, []byte("green"))
			require.NoError(t, err)
			require.Equal(t, Sealed, in.State)
			continue
		}
		require.NoError(t, b.Discard(t.Context(), p.ID))
		b.reopen()
		_, err = b.Lookup(p.ID)
		require.ErrorIs(t, err, snapshot.ErrNotFound)
	}
}

// failing is a driver of which single steps fail.
type failing struct {
	view.Driver
	sync, remove error
}

func (f *failing) Sync(ctx context.Context, l *view.Layer) error {
	return errors.Join(f.sync, f.Driver.Sync(ctx, l))
}

func (f *failing) Remove(ctx context.Context, l *view.Layer) error {
	if f.remove != nil {
		return f.remove
	}
	return f.Driver.Remove(ctx, l)
}

func TestFailedSyncIsFinal(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	good := b.job(func(dir string) { write(t, dir+"/f", "x") })
	b.packed(good.ID)
	bad := b.job(func(dir string) { write(t, dir+"/g", "y") }, good.ID)
	above := b.job(func(dir string) { write(t, dir+"/h", "z") }, bad.ID)
	open := b.spec(above.ID)
	_, err := b.Prepare(t.Context(), open)
	require.NoError(t, err)
	f := &failing{Driver: b.Store.driver, sync: errors.New("input/output error")}
	b.Store.driver = f
	stop := b.run()
	_, err = b.Packed(t.Context(), above.ID)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	stop()
	f.sync = nil
	b.run()
	for _, id := range []snapshot.ID{bad.ID, above.ID} {
		in, err := b.Lookup(id)
		require.NoError(t, err)
		require.Equal(t, Suspect, in.State)
	}
	in, err := b.Seal(t.Context(), open.ID, nil)
	require.NoError(t, err)
	require.Equal(t, Suspect, in.State, "what the job saw may be lost")
	require.False(t, in.Synced)
	b.requireTree(good.ID)
}

func TestRemovalThatFailsIsFinished(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	f := &failing{Driver: b.Store.driver, remove: errors.New("no")}
	b.Store.driver = f
	require.ErrorIs(t, b.Drop(t.Context(), one.ID), f.remove)
	_, err := b.Lookup(one.ID)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	b.reopen()
	entries, err := os.ReadDir(filepath.Join(b.dir, "views"))
	require.NoError(t, err)
	require.Empty(t, entries)
}

// What is not there when a layer is packed is no reason to stop: others go on, and
// it is tried again.
func TestPackingGoesOn(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	bad := b.job(func(dir string) { write(t, dir+"/f", "x") })
	good := b.job(func(dir string) { write(t, dir+"/f", "x") })
	m, err := b.Tree(t.Context(), bad.ID)
	require.NoError(t, err)
	e, _ := m.Find("f")
	require.NoError(t, os.Rename(e.Source, e.Source+".away"))
	b.run()
	b.packed(good.ID)
	require.Eventually(t, func() bool {
		in, err := b.Lookup(bad.ID)
		return err == nil && in.State == Sealed && in.Err != ""
	}, waitMost, tick)
	require.NoError(t, os.Rename(e.Source+".away", e.Source))
	in := b.packed(bad.ID)[0]
	require.Empty(t, in.Err)
}

func TestRunTwice(t *testing.T) {
	b := newBench(t, view.NameCopy)
	b.run()
	require.Eventually(t, func() bool { return !b.running.TryLock() || unlock(b) }, waitMost, tick)
	require.ErrorContains(t, b.Run(t.Context()), "running already")
}

func unlock(b *bench) bool { b.running.Unlock(); return false }
