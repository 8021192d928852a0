package view

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What takes the place of a view at the last moment is not sealed: a link would have the store
// read wherever it leads.
func TestSealTakesTheViewAlone(t *testing.T) {
	dir := t.TempDir()
	made, err := NewCopy(filepath.Join(dir, "s"), Options{})
	require.NoError(t, err)
	d, ok := made.(*Copy)
	require.True(t, ok)
	elsewhere := filepath.Join(dir, "etc")
	require.NoError(t, os.Mkdir(elsewhere, 0o755))
	for name, swap := range map[string]func(target string) error{
		"a link":            func(target string) error { return os.Symlink(elsewhere, target) },
		"a file":            func(target string) error { return os.WriteFile(target, nil, 0o600) },
		"another directory": func(target string) error { return os.Mkdir(target, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			v, err := d.Prepare(t.Context(), Spec{ID: newID(t), Target: filepath.Join(dir, "slot", "v")})
			require.NoError(t, err)
			m, err := d.readMeta(v.ID, nil)
			require.NoError(t, err)
			real := filepath.Join(dir, "slot", "real")
			require.NoError(t, os.Rename(v.Target, real))
			require.NoError(t, swap(v.Target))
			at := d.abs(v.Layer.Dir)
			require.Error(t, d.take(t.Context(), m, at)) // after the look that Seal takes
			_, err = os.Lstat(at)
			require.ErrorIs(t, err, os.ErrNotExist)
			require.DirExists(t, elsewhere)
			require.NoError(t, os.Rename(real, v.Target))
			require.NoError(t, d.Seal(t.Context(), v))
			require.NoError(t, d.Seal(t.Context(), v), "again")
		})
	}
}
