package tree_test

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

func TestScanSkipsWhatCantBeKept(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	dir := t.TempDir()
	for _, p := range []string{"a", "cap", "z"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, p), []byte(p), 0o644))
	}
	require.NoError(t, unix.Mknod(filepath.Join(dir, "node"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	require.NoError(t, unix.Mknod(filepath.Join(dir, "white"), unix.S_IFCHR|0o600, 0))
	require.NoError(t, unix.Setxattr(filepath.Join(dir, "cap"), "trusted.foo", []byte("x"), 0))
	_, err := tree.Scan(t.Context(), dir, tree.ScanOptions{})
	var unsupported *snapshot.UnsupportedError
	require.ErrorAs(t, err, &unsupported)

	var mu sync.Mutex
	var skipped []string
	m, err := tree.Scan(t.Context(), dir, tree.ScanOptions{Skip: func(e *snapshot.UnsupportedError) {
		mu.Lock()
		defer mu.Unlock()
		skipped = append(skipped, e.Path)
	}})
	require.NoError(t, err)
	slices.Sort(skipped)
	require.Equal(t, []string{"cap", "node", "white"}, skipped)
	var paths []string
	for _, e := range m.Entries {
		paths = append(paths, e.Path)
		require.Empty(t, e.Xattrs)
	}
	require.Equal(t, []string{"", "a", "cap", "z"}, paths)
}
