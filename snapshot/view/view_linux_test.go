package view_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/snapshot/view/viewtest"
)

func openWith(f func(string, view.Options) (view.Driver, error), o view.Options) viewtest.Open {
	return func(t testing.TB, root string) view.Driver {
		o.Owners = true
		d, err := f(root, o)
		require.NoError(t, err)
		return d
	}
}

func TestOverlay(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	viewtest.Run(t, openWith(view.NewOverlay, view.Options{}))
}

// TestOverlayOldKernel is the driver as it works before Linux 6.8.
func TestOverlayOldKernel(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	viewtest.Run(t, openWith(view.NewOverlay, view.Options{NoDataDirs: true}))
}

// TestOverlayFlat flattens at almost every step.
func TestOverlayFlat(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	viewtest.Run(t, openWith(view.NewOverlay, view.Options{MaxLowers: 3}))
}

func TestCopy(t *testing.T) {
	viewtest.Run(t, openWith(view.NewCopy, view.Options{}))
}
