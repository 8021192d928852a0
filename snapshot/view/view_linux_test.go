package view_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/snapshot/view/viewtest"
)

type opener func(string, view.Options) (view.Driver, error)

func openWith(f opener, o view.Options) viewtest.Open {
	return func(t testing.TB, root string) view.Driver {
		o.Owners = true
		d, err := f(root, o)
		require.NoError(t, err)
		return d
	}
}

// rungs are the drivers, with the options that make them work in another way, on
// the file systems on which they do.
var rungs = []struct {
	fs, name string
	open     opener
	o        view.Options
}{
	{testenv.Ext4, "overlay", view.NewOverlay, view.Options{}},
	{testenv.Ext4, "overlay before Linux 6.8", view.NewOverlay, view.Options{NoDataDirs: true}},
	{testenv.Ext4, "overlay flattened at almost every step", view.NewOverlay, view.Options{MaxLowers: 3}},
	{testenv.Ext4, "copy", view.NewCopy, view.Options{}},
	{testenv.XFS, "overlay", view.NewOverlay, view.Options{}},
	{testenv.XFS, "reflink", view.NewReflink, view.Options{}},
	{testenv.Btrfs, "reflink", view.NewReflink, view.Options{}},
}

// TestRungs runs the suite for all of them, on fresh file systems: besides what
// they differ in, one that has seen many deletions can be ten times slower.
func TestRungs(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	for _, fs := range []string{testenv.Ext4, testenv.XFS, testenv.Btrfs} {
		t.Run(fs, func(t *testing.T) {
			t.Parallel()
			dir := testenv.Disk(t, fs, 1<<30)
			for _, r := range rungs {
				if r.fs == fs && (!testing.Short() || !r.o.NoDataDirs && r.o.MaxLowers == 0) {
					t.Run(r.name, func(t *testing.T) {
						viewtest.Suite{Open: openWith(r.open, r.o), Dir: dir}.Run(t)
					})
				}
			}
		})
	}
}

// TestNoSilentCopy: who asks for clones where there are none is told so.
func TestNoSilentCopy(t *testing.T) {
	dir := testenv.Disk(t, testenv.Ext4, 64<<20)
	_, err := view.NewReflink(dir, view.Options{})
	require.ErrorIs(t, err, view.ErrUnavailable)
	require.ErrorContains(t, err, "ext4 does not clone files")
	for _, p := range view.Probe(dir) {
		if p.Name == view.NameReflink {
			require.False(t, p.OK)
			require.Contains(t, p.Fix, "xfs-loop")
		}
	}
}
