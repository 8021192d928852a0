package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteFileIsWholeOrAbsent(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	boom := errors.New("boom")
	err := WriteFile(name, 0o600, func(w io.Writer) error {
		io.WriteString(w, "half")
		return boom
	})
	require.ErrorIs(t, err, boom)
	require.Empty(t, names(t, dir), "nothing may be left of a failed write")
	require.NoError(t, WriteFile(name, 0o640, func(w io.Writer) error { _, err := io.WriteString(w, "one"); return err }))
	require.Error(t, WriteFile(name, 0o600, func(io.Writer) error { return boom }))
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, "one", string(b), "the old content stays when a new one fails")
	fi, err := os.Stat(name)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), fi.Mode().Perm())
}

func TestAbortAfterCommitDoesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(dir)
	require.NoError(t, err)
	defer f.Abort()
	require.NoError(t, f.Commit(filepath.Join(dir, "x")))
	f.Abort()
	require.Equal(t, []string{"x"}, names(t, dir))
}

func TestCommitToAMissingDirectoryLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(dir)
	require.NoError(t, err)
	require.Error(t, f.Commit(filepath.Join(dir, "none", "x")))
	require.Empty(t, names(t, dir))
}

func TestMkdirEach(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "b"), 0o755))
	for range 2 {
		require.NoError(t, MkdirEach(dir, 0o700, "a", "b"))
		require.DirExists(t, filepath.Join(dir, "a"))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.Error(t, MkdirEach(dir, 0o700, "c", "file"))
}

func TestRenameAndMkdirAll(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o700))
	require.NoError(t, MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o700))
	require.NoError(t, Rename(filepath.Join(dir, "a", "b"), filepath.Join(dir, "moved")))
	require.DirExists(t, filepath.Join(dir, "moved", "c"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.ErrorContains(t, MkdirAll(filepath.Join(dir, "file"), 0o700), "not a directory")
}
