package store

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// later imports the chain of a history with Later into a fresh store.
func later(t *testing.T) (src, dst *bench, r *remote, chain []ImportSpec) {
	t.Helper()
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	src, dst = newBench(t, view.NameErofs), newBench(t, view.NameErofs)
	r = newRemote(t)
	chain = uploaded(r, src, history(t, src))
	for i := range chain {
		chain[i].Later = true
	}
	require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
	return src, dst, r, chain
}

func requireSynced(t testing.TB, b *bench, id snapshot.ID, want bool) {
	t.Helper()
	in, err := b.Lookup(id)
	require.NoError(t, err)
	require.True(t, in.State.Usable(), in.Err)
	require.Equal(t, want, in.Synced)
}

// What is not on the disk yet can be used, and outlives the process.
func TestLaterOutlivesTheProcess(t *testing.T) {
	src, dst, _, chain := later(t)
	tip := chain[2].ID
	requireSynced(t, dst, tip, false)
	requireSame(t, src, dst, tip)
	dst.crash()
	dst.open()
	requireSynced(t, dst, tip, false)
	requireSame(t, src, dst, tip)
	require.NoError(t, dst.Verify(t.Context(), tip))
	require.NoError(t, dst.SyncLater(t.Context(), tip))
	requireSynced(t, dst, tip, true)
	dst.o.BootID = "boot-2"
	dst.reopen()
	requireSynced(t, dst, tip, true)
	requireSame(t, src, dst, tip)
}

// After a power cut it is not believed, whatever is there, and is fetched again.
func TestLaterDoesNotOutliveTheBoot(t *testing.T) {
	for name, cut := range map[string]func(b *bench, bundle string){
		"nothing was lost": func(*bench, string) {},
		"all zeros": func(b *bench, f string) {
			require.NoError(b.t, os.Truncate(f, 0))
			require.NoError(b.t, os.Truncate(f, 8<<20))
		},
		"cut short":        func(b *bench, f string) { require.NoError(b.t, os.Truncate(f, 700)) },
		"the file is gone": func(b *bench, f string) { require.NoError(b.t, os.Remove(f)) },
	} {
		t.Run(name, func(t *testing.T) {
			src, dst, r, chain := later(t)
			tip := chain[2].ID
			m, err := dst.Tree(t.Context(), tip)
			require.NoError(t, err)
			e, ok := m.Find("src/b")
			require.True(t, ok)
			dst.crash()
			cut(dst, e.Source)
			dst.o.BootID = "boot-2"
			dst.open()
			in, err := dst.Lookup(tip)
			require.NoError(t, err)
			require.Equal(t, Suspect, in.State)
			require.Contains(t, in.Err, "fetched before a restart")
			_, err = dst.Prepare(t.Context(), dst.spec(tip))
			require.ErrorIs(t, err, snapshot.ErrNotFound)
			require.ErrorIs(t, dst.SyncLater(t.Context(), tip), snapshot.ErrNotFound)
			require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
			requireSynced(t, dst, tip, false)
			requireSame(t, src, dst, tip)
		})
	}
}

// Run brings it to disk, and before what stands on it.
func TestRunSyncsLater(t *testing.T) {
	_, dst, _, chain := later(t)
	tip := chain[2].ID
	on := dst.job(func(dir string) { write(t, dir+"/new", "x") }, tip)
	require.Equal(t, tip, dst.nextUnsynced().info.ID, "the older one first")
	dst.packed(on.ID)
	requireSynced(t, dst, tip, true)
	requireSynced(t, dst, on.ID, true)
}

// Where the boot is not known, or the driver can't, it is on the disk at once.
func TestLaterIsNowElsewhere(t *testing.T) {
	driver := overlayOrCopy(t)
	src, dst := newBench(t, driver), newBench(t, driver)
	r := newRemote(t)
	chain := uploaded(r, src, history(t, src))
	for i := range chain {
		chain[i].Later = true
	}
	require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
	requireSynced(t, dst, chain[2].ID, true)
}

// What others stand on for good is on the disk before.
func TestLaterIsSyncedForWhatStandsOnIt(t *testing.T) {
	src, dst, r, chain := later(t)
	tip := chain[2].ID
	four := src.job(func(dir string) { write(t, dir+"/four", "4") }, tip)
	more := uploaded(r, src, []snapshot.ID{four.ID})
	more[0].Later = true
	require.NoError(t, dst.Import(t.Context(), more[0], r.open, nil))
	requireSynced(t, dst, tip, false)
	requireSynced(t, dst, four.ID, false)
	five := src.job(func(dir string) { write(t, dir+"/five", "5") }, four.ID)
	require.NoError(t, dst.Import(t.Context(), uploaded(r, src, []snapshot.ID{five.ID})[0], r.open, nil))
	for _, id := range []snapshot.ID{tip, four.ID, five.ID} {
		requireSynced(t, dst, id, true)
	}
}

// So is what a snapshot of a directory is made on.
func TestLaterIsSyncedForCreate(t *testing.T) {
	_, dst, _, chain := later(t)
	tip := chain[2].ID
	dir := t.TempDir()
	write(t, dir+"/f", "f")
	_, err := dst.Create(t.Context(), CreateSpec{Dir: dir, Base: tip, DomainKey: domainKey})
	require.NoError(t, err)
	requireSynced(t, dst, tip, true)
}

// A sync that fails condemns the layer: what of it is on the disk nobody knows.
func TestLaterSyncFails(t *testing.T) {
	_, dst, r, chain := later(t)
	tip := chain[2].ID
	d := dst.Store.driver
	dst.Store.driver = &failing{Driver: d, sync: errors.New("I/O error")}
	err := dst.SyncLater(t.Context(), tip)
	dst.Store.driver = d
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	in, err := dst.Lookup(tip)
	require.NoError(t, err)
	require.Equal(t, Suspect, in.State)
	require.NoError(t, dst.ImportChain(t.Context(), chain, r.open, nil))
	requireSynced(t, dst, tip, false)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, dst.SyncLater(ctx, tip), context.Canceled)
	requireSynced(t, dst, tip, false)
}
