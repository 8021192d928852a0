package tree_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/tree"
)

func TestSurveyTellsTheInodeOfEachEntry(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	for _, p := range []string{"a/x", "a/b/y", "z"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, p), []byte(p), 0o644))
	}
	require.NoError(t, os.Link(filepath.Join(dir, "z"), filepath.Join(dir, "a/b/z")))
	m, inodes, err := tree.Survey(t.Context(), dir, tree.ScanOptions{})
	require.NoError(t, err)
	scanned, err := tree.Scan(t.Context(), dir, tree.ScanOptions{})
	require.NoError(t, err)
	require.Equal(t, scanned, m)
	require.Len(t, inodes, len(m.Entries))
	for i, e := range m.Entries {
		_, want, _, err := tree.Lstat(dir, e.Path, tree.ScanOptions{})
		require.NoError(t, err)
		require.Equal(t, want, inodes[i], e.Path)
		require.NotZero(t, inodes[i].CTime)
	}
}
