package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

func TestFanin(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		base := b.job(func(dir string) {
			for _, f := range []string{"keep", "left/x", "right/y", "both"} {
				write(t, filepath.Join(dir, f), f)
			}
			require.NoError(t, os.Link(dir+"/keep", dir+"/kept"))
		})
		left := b.job(func(dir string) {
			write(t, dir+"/left/x", "changed by left")
			require.NoError(t, os.RemoveAll(dir+"/both"))
		}, base.ID)
		right := b.job(func(dir string) {
			require.NoError(t, os.Rename(dir+"/right", dir+"/moved"))
			for _, f := range []string{"1", "2", "3"} {
				write(t, dir+"/new/"+f, f)
			}
		}, base.ID)
		third := b.job(func(dir string) { require.NoError(t, os.Chmod(dir+"/keep", 0o600)) }, base.ID)

		p := b.spec(left.ID, right.ID, third.ID)
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		require.True(t, a.Merged)
		require.Equal(t, "changed by left", read(t, a.Target+"/left/x"))
		require.Equal(t, "right/y", read(t, a.Target+"/moved/y"))
		require.Equal(t, "2", read(t, a.Target+"/new/2"))
		require.NoFileExists(t, a.Target+"/both")
		require.NoDirExists(t, a.Target+"/right")
		fi, err := os.Stat(a.Target + "/keep")
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
		require.Equal(t, right.ID, b.views[p.ID].base, "it needs the fewest changes")
		write(t, a.Target+"/new/2", "by the join")
		join, err := b.Seal(t.Context(), p.ID, nil)
		require.NoError(t, err)
		require.ElementsMatch(t, []snapshot.ID{left.ID, right.ID, third.ID}, join.Parents)
		require.Equal(t, right.ID, join.Base)
		before := b.requireTree(join.ID)

		// A second generation: the parents' line is not walked past the join.
		next := b.job(func(dir string) { require.Equal(t, "by the join", read(t, dir+"/new/2")) }, join.ID, left.ID)
		require.Equal(t, []snapshot.ID{join.ID}, next.Parents, "an ancestor of another input is contained in it")

		b.reopen() // nothing of the merge is in memory any more
		require.Equal(t, before, b.requireTree(join.ID))
		for _, in := range []snapshot.ID{left.ID, right.ID, third.ID} {
			require.ErrorIs(t, b.Drop(t.Context(), in), snapshot.ErrBusy, "the join shows its files")
		}
		b.packed(join.ID)
		require.Equal(t, before, b.requireTree(join.ID))
		require.NoError(t, b.Verify(t.Context(), join.ID))

		// Elsewhere the join needs its base's line only.
		dst, r := newBench(t, driver), newRemote(t)
		b.packed(next.ID)
		for _, id := range []snapshot.ID{base.ID, right.ID, join.ID, next.ID} {
			require.NoError(t, dst.Import(t.Context(), r.upload(b, id), r.open, nil))
		}
		require.Equal(t, before, dst.requireTree(join.ID))
		require.NoError(t, dst.Verify(t.Context(), join.ID))
	})
}

// What the parents wrote is compared by content only where they disagree.
func TestFaninOfEqualFiles(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	base := b.job(nil)
	wr := func(dir string) { write(t, dir+"/same", "the very same"); write(t, dir+"/log", "x") }
	one, two := b.job(wr, base.ID), b.job(wr, base.ID)
	p := b.spec(one.ID, two.ID)
	a, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, 2, a.MTimeDivergence)
	require.NoError(t, b.Discard(t.Context(), p.ID))

	// Packed or not, it comes to the same.
	b.packed(one.ID, two.ID)
	b.merges.forget(b.layers[one.ID])
	p = b.spec(one.ID, two.ID)
	a, err = b.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, 2, a.MTimeDivergence)
}

func TestFaninConflict(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		base := b.job(func(dir string) { write(t, dir+"/f", "base") })
		one := b.job(func(dir string) { write(t, dir+"/f", "from one") }, base.ID)
		two := b.job(func(dir string) { write(t, dir+"/f", "from two") }, base.ID)

		p := b.spec(one.ID, two.ID)
		_, err := b.Prepare(t.Context(), p)
		var conflict *snapshot.ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, []snapshot.Conflict{{Path: "f", Kind: snapshot.ConflictModify, Jobs: [2]string{"a", "b"}}}, conflict.Conflicts)
		require.Empty(t, openOnly(b.Views()))
		require.NoDirExists(t, p.Target)

		p.Order = true
		in := b.jobSpec(p, func(dir string) { require.Equal(t, "from one", read(t, dir+"/f")) })
		require.Equal(t, one.ID, in.Base)
		p = b.spec(one.ID, two.ID)
		p.Prefer = []tree.Prefer{{Glob: "f", Job: "b"}}
		b.jobSpec(p, func(dir string) { require.Equal(t, "from two", read(t, dir+"/f")) })
	})
}

// TestFaninFolds: on a host whose file system takes Name and name for the same, a fan-in of
// both is the pipeline's fault, not the host's.
func TestFaninFolds(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	require.Equal(t, foldsHere(t), b.folds)
	base := b.job(func(dir string) { write(t, dir+"/f", "base") })
	one := b.job(func(dir string) { write(t, dir+"/Build/x", "1") }, base.ID)
	two := b.job(func(dir string) { write(t, dir+"/build/y", "2") }, base.ID)

	b.folds = true
	p := b.spec(one.ID, two.ID)
	p.Order = true
	_, err := b.Prepare(t.Context(), p)
	var conflict *snapshot.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, []snapshot.Conflict{{
		Path: "Build", Other: "build", Kind: snapshot.ConflictCase, Jobs: [2]string{"a", "b"},
	}}, conflict.Conflicts)
	require.ErrorContains(t, err, `at "Build" and "build": this host's file system has room for one`)
	require.Empty(t, openOnly(b.Views()))
	require.NoDirExists(t, p.Target)

	if b.folds = foldsHere(t); !b.folds {
		b.job(func(dir string) {
			require.FileExists(t, dir+"/Build/x")
			require.FileExists(t, dir+"/build/y")
		}, one.ID, two.ID)
	}
}

// foldsHere makes a file and looks for it by another name.
func foldsHere(t *testing.T) bool {
	dir := t.TempDir()
	write(t, dir+"/name", "")
	_, err := os.Stat(dir + "/NAME")
	return err == nil
}

// Lines that crossed have no single common ancestor.
//
//	base ── x ──┬── left  (x, y)
//	   └─── y ──┴── right (x, y)
func TestFaninAfterCrossing(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	base := b.job(func(dir string) { write(t, dir+"/f", "base"); write(t, dir+"/g", "base") })
	x := b.job(func(dir string) { write(t, dir+"/f", "of x"); write(t, dir+"/x", "x") }, base.ID)
	y := b.job(func(dir string) { write(t, dir+"/g", "of y"); write(t, dir+"/y", "y") }, base.ID)
	left := b.job(func(dir string) { write(t, dir+"/left", "l") }, x.ID, y.ID)
	right := b.job(func(dir string) { require.NoError(t, os.Remove(dir+"/x")) }, x.ID, y.ID)
	b.job(func(dir string) {
		require.Equal(t, "of x", read(t, dir+"/f"))
		require.Equal(t, "of y", read(t, dir+"/g"))
		require.Equal(t, "l", read(t, dir+"/left"))
		require.NoFileExists(t, dir+"/x")
	}, left.ID, right.ID)

	// x and y disagree about f; left and right settled it in different ways.
	y2 := b.job(func(dir string) { write(t, dir+"/f", "of y2") }, base.ID)
	settle := func(job string) snapshot.ID {
		p := b.spec(x.ID, y2.ID)
		p.Prefer = []tree.Prefer{{Glob: "f", Job: job}}
		return b.jobSpec(p, nil).ID
	}
	l, r := settle("a"), settle("b")
	_, err := b.Prepare(t.Context(), b.spec(l, r))
	var conflict *snapshot.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "f", conflict.Conflicts[0].Path)
	b.job(func(dir string) { require.Equal(t, "of x", read(t, dir+"/f")) }, l, settle("a"))
}

// On a host that has both parents but not what they started from, Needs names it.
func TestNeedsOfFanin(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	one := b.job(func(dir string) { write(t, dir+"/1", "1") })
	two := b.job(func(dir string) { write(t, dir+"/2", "2") })
	root := newID(t)
	p := b.spec(one.ID, two.ID)
	p.Lineage = []Node{{ID: root}, {ID: one.ID, Parents: []snapshot.ID{root}}, {ID: two.ID, Parents: []snapshot.ID{root}}}
	require.Equal(t, []snapshot.ID{root}, b.Needs(p))
	_, err := b.Prepare(t.Context(), p)
	var missing *MissingError
	require.ErrorAs(t, err, &missing)
	require.Equal(t, []snapshot.ID{root}, missing.IDs)
	p.Lineage = nil
	require.Empty(t, b.Needs(p))
	b.jobSpec(p, func(dir string) { require.Equal(t, "12", read(t, dir+"/1")+read(t, dir+"/2")) })
}
