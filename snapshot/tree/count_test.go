package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCount(t *testing.T) {
	dir := t.TempDir()
	require.Zero(t, Count(t.Context(), dir, 100))
	for i := range 50 {
		sub := filepath.Join(dir, fmt.Sprint(i%5), "sub")
		require.NoError(t, os.MkdirAll(sub, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), nil, 0o600))
	}
	require.NoError(t, os.Symlink("0", filepath.Join(dir, "link"))) // is not followed
	require.Equal(t, 61, Count(t.Context(), dir, 100))
	require.GreaterOrEqual(t, Count(t.Context(), dir, 20), 20)
	require.Zero(t, Count(t.Context(), filepath.Join(dir, "none"), 20))
}
