package view_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/snapshot/view/viewtest"
)

// TestRungs runs the suite for every driver on the file systems on which it works
// differently.
func TestRungs(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	for _, fs := range []struct {
		kind    string
		drivers map[string]func(string, view.Options) (view.Driver, error)
	}{
		{testenv.XFS, map[string]func(string, view.Options) (view.Driver, error){
			view.NameOverlay: view.NewOverlay, view.NameReflink: view.NewReflink,
		}},
		{testenv.Btrfs, map[string]func(string, view.Options) (view.Driver, error){
			view.NameReflink: view.NewReflink,
		}},
	} {
		t.Run(fs.kind, func(t *testing.T) {
			dir := testenv.Disk(t, fs.kind, 1<<30)
			for name, open := range fs.drivers {
				t.Run(name, func(t *testing.T) {
					viewtest.Suite{Open: openWith(open, view.Options{}), Dir: dir}.Run(t)
				})
			}
		})
	}
}

// TestNoSilentCopy: who asks for clones where there are none is told so.
func TestNoSilentCopy(t *testing.T) {
	testenv.Require(t, testenv.Root)
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
