package view_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/snapshot/view/containers"
)

// makeLayer has a driver make a layer with one file.
func makeLayer(t *testing.T, name, root string) *view.Layer {
	t.Helper()
	d, err := view.Open(name, root, view.Options{Owners: true})
	require.NoError(t, err)
	v, err := d.Prepare(t.Context(), view.Spec{ID: "00000000000000000000000001", Target: filepath.Join(root, "slot")})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(v.Target, "f"), []byte(name), 0o600))
	require.NoError(t, d.Seal(t.Context(), v))
	require.NoError(t, d.Sync(t.Context(), &v.Layer))
	return &v.Layer
}

// TestOtherDriversLayers: a driver is let near another's layers only where it shows
// what they are. Everything else is refused, and auto stays with what is there.
func TestOtherDriversLayers(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	disk := testenv.Disk(t, testenv.XFS, 512<<20)
	all := []string{view.NameErofs, view.NameOverlay, view.NameReflink, view.NameCopy, containers.Name}
	allowed := map[string][]string{
		view.NameOverlay: {view.NameErofs}, view.NameReflink: {view.NameCopy}, view.NameCopy: {view.NameReflink},
	}
	for _, made := range all {
		for _, by := range append(all, "auto") {
			t.Run(made+" used by "+by, func(t *testing.T) {
				root, err := os.MkdirTemp(disk, "s") //nolint:usetesting // t.TempDir is on another file system
				require.NoError(t, err)
				l := makeLayer(t, made, root)
				d, err := view.Open(by, root, view.Options{Owners: true})
				if by != "auto" && by != made && !slices.Contains(allowed[made], by) {
					require.ErrorIs(t, err, view.ErrOtherDriver)
					require.ErrorContains(t, err, made)
					return
				}
				require.NoError(t, err)
				at := filepath.Join(root, "slot")
				v, err := d.Prepare(t.Context(), view.Spec{ID: "00000000000000000000000002", Base: l, Target: at})
				require.NoError(t, err)
				b, err := os.ReadFile(filepath.Join(at, "f"))
				require.NoError(t, err)
				require.Equal(t, made, string(b))
				require.NoError(t, d.Discard(t.Context(), v))
				_, err = d.Reconcile(t.Context(), []snapshot.ID{l.ID}, nil)
				require.NoError(t, err)
			})
		}
	}
}

// TestMark: a mark that can't be read, or is of a version to come, opens nothing.
func TestMark(t *testing.T) {
	for _, text := range []string{"", "roost-driver 2\ncopy\n", "roost-driver 1\ncopy", "copy\n", "roost-driver 1\nzfs\n"} {
		root := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(root, "driver"), []byte(text), 0o600))
		for _, name := range []string{"copy", "auto"} {
			_, err := view.Open(name, root, view.Options{})
			require.Error(t, err, "%q", text)
		}
		b, err := os.ReadFile(filepath.Join(root, "driver"))
		require.NoError(t, err)
		require.Equal(t, text, string(b), "the mark was changed")
	}
}
