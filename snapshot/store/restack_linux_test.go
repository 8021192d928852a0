package store

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestLongLine: jobs that start right behind one another never wait for an image, as
// long as images of earlier ones are made behind them, and see what they must.
func TestLongLine(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	b := newBench(t, view.NameErofs)
	b.run()
	p := b.spec()
	at, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	fewFiles(t)(at.Target)
	for i := range 8 {
		write(t, fmt.Sprintf("%s/kept/%d/f", at.Target, i), "kept")
	}
	var made []snapshot.ID
	for i := range 3 * maxStacked {
		old, err := b.Seal(t.Context(), p.ID, nil)
		require.NoError(t, err)
		made = append(made, old.ID)
		require.LessOrEqual(t, len(b.placeOf(old.ID).Lowers), maxStacked/3+1, "job %d", i)
		p = b.spec(old.ID)
		next, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		change(t, next.Target, i)
		// The layer before is imaged while this job runs, as a rule.
		b.waitPlace(old.ID, "an image", func(p *view.Layer) bool { return !stacked(p) })
	}
	last, err := b.Seal(t.Context(), p.ID, nil)
	require.NoError(t, err)
	seen := b.shown(last.ID) // as it was left, on a stack or not
	m, err := b.Tree(t.Context(), last.ID)
	require.NoError(t, err)
	require.Equal(t, digestOf(t, m), digestOf(t, seen))
	b.waitPlace(last.ID, "an image", func(p *view.Layer) bool { return !stacked(p) })
	require.Equal(t, digestOf(t, seen), digestOf(t, b.shown(last.ID)))
	b.packed(last.ID)
	for _, id := range made[len(made)-maxStacked:] {
		b.requireTree(id)
	}
}

// change does the things by which an upper refers to what lies below it: by name after a
// move, by its data after a change of mode, by not showing it.
func change(t *testing.T, dir string, i int) {
	t.Helper()
	at := fmt.Sprintf("%s/kept/%d", dir, i%8)
	require.NoError(t, os.Chmod(dir+"/d0/large", os.FileMode(0o600+i%8)))
	write(t, fmt.Sprintf("%s/new/%d", dir, i), fmt.Sprint(i))
	switch i % 4 {
	case 0:
		require.NoError(t, os.Rename(at, at+"-moved"))
		require.NoError(t, os.Rename(at+"-moved", at))
	case 1:
		require.NoError(t, os.Rename(at, fmt.Sprintf("%s/moved-%d", dir, i)))
		write(t, at+"/f", fmt.Sprint("again ", i))
	case 2:
		require.NoError(t, os.RemoveAll(at))
		write(t, at+"/g", fmt.Sprint("opaque ", i))
	case 3:
		require.NoError(t, os.Rename(dir+"/d0/large", dir+"/d0/l"))
		require.NoError(t, os.Rename(dir+"/d0/l", dir+"/d0/large"))
	}
}
