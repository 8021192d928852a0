package tree_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// bushy makes a tree in which directories are read out of order if they can be.
func bushy(t *testing.T) string {
	dir := t.TempDir()
	for i := range 40 {
		sub := filepath.Join(dir, fmt.Sprintf("%02d", i), "a", fmt.Sprint(i%3))
		require.NoError(t, os.MkdirAll(sub, 0o755))
		for j := range i % 7 {
			require.NoError(t, os.WriteFile(filepath.Join(sub, fmt.Sprint(j)), []byte("x"), 0o644))
		}
	}
	file := filepath.Join(dir, "06", "a", "0", "2")
	for _, p := range []string{"39/a/link", "00/link", "17/a/0"} {
		require.NoError(t, os.Link(file, filepath.Join(dir, p)+"-"))
	}
	require.NoError(t, os.Link(file, filepath.Join(t.TempDir(), "elsewhere")))
	require.NoError(t, os.Link(filepath.Join(dir, "20/a/2/1"), filepath.Join(t.TempDir(), "elsewhere")))
	return dir
}

func TestEachIsScan(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	dir := bushy(t)
	want, err := tree.Scan(t.Context(), dir, tree.ScanOptions{})
	require.NoError(t, err)
	var inodes []tree.Inode
	for _, e := range want.Entries {
		_, in, _, err := tree.Lstat(dir, e.Path, tree.ScanOptions{})
		require.NoError(t, err)
		require.NotZero(t, in.CTime)
		inodes = append(inodes, in)
	}
	for range 20 {
		var got []snapshot.Entry
		var ids []tree.Inode
		firsts, err := tree.Each(t.Context(), dir, tree.ScanOptions{}, func(e *snapshot.Entry, in *tree.Inode) error {
			got, ids = append(got, *e), append(ids, *in)
			return nil
		})
		require.NoError(t, err)
		require.Len(t, firsts, 1, "a file whose other names lie elsewhere has one name")
		for _, i := range firsts {
			require.Empty(t, got[i].Link)
			got[i].Link = got[i].Path
		}
		require.Equal(t, want.Entries, got)
		require.Equal(t, inodes, ids)
	}
}

func TestEachEnds(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	dir := bushy(t)
	stop := errors.New("enough")
	n := 0
	_, err := tree.Each(t.Context(), dir, tree.ScanOptions{}, func(*snapshot.Entry, *tree.Inode) error {
		if n++; n == 50 {
			return stop
		}
		return nil
	})
	require.Equal(t, stop, err)
	require.Equal(t, 50, n)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = tree.Each(ctx, dir, tree.ScanOptions{}, func(*snapshot.Entry, *tree.Inode) error { cancel(); return nil })
	if err != nil { // else all was read before anybody looked
		require.ErrorIs(t, err, context.Canceled)
	}
	_, err = tree.Each(t.Context(), filepath.Join(dir, "nowhere"), tree.ScanOptions{}, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}
