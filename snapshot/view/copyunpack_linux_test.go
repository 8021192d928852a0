package view

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// unpackable is a small tree for UnpackTree: two files, one of two names, of which a view
// can't read one and can't enter a directory.
func unpackable() *snapshot.Manifest {
	return &snapshot.Manifest{Entries: []snapshot.Entry{
		{Path: "", Type: snapshot.TypeDir, Mode: 0o755},
		{Path: "a", Type: snapshot.TypeFile, Mode: 0o040, Size: 4, Link: "a"},
		{Path: "d", Type: snapshot.TypeDir, Mode: 0o300, MTime: 7},
		{Path: "d/b", Type: snapshot.TypeFile, Mode: 0o040, Size: 4, Link: "a"},
		{Path: "d/c", Type: snapshot.TypeFile, Mode: 0o644, Size: 2, MTime: -1},
		{Path: "e", Type: snapshot.TypeSymlink, Mode: 0o777, Target: "a"},
	}}
}

// A copy unpacked entry by entry is what it was said to be, also where nobody is root, and
// nothing is left of one that is written to in another way.
func TestUnpackTreeOfCopy(t *testing.T) {
	made, err := NewCopy(filepath.Join(t.TempDir(), "s"), Options{})
	require.NoError(t, err)
	d, ok := made.(*Copy)
	require.True(t, ok)
	d.super, d.owners = false, false
	good := []snapshot.Piece{
		{Change: 1, Bytes: []byte("fo")},
		{Change: 1, Off: 2, Bytes: []byte("ur")},
		{Change: 3, Off: 3, Bytes: []byte("R")},
		{Change: 4, Bytes: []byte("2\n")},
	}
	unpack := func(pieces ...snapshot.Piece) (*Layer, Tree, error) {
		return d.UnpackTree(t.Context(), TreeSpec{
			ID: newID(t), New: TreeOf(unpackable()), N: 6,
			Fill: func(_ context.Context, write PiecesFunc) error { return write(pieces...) },
		})
	}
	l, located, err := unpack(good...)
	require.NoError(t, err)
	dir := d.abs(l.Dir)
	require.NoError(t, located(func(e *snapshot.Entry) error {
		if e.Type == snapshot.TypeFile {
			require.Equal(t, filepath.Join(dir, e.Path), e.Source)
		}
		return nil
	}))
	for name, want := range map[string]string{"a": "fouR", "d/b": "fouR", "d/c": "2\n"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want, string(got), name)
	}
	for name, mode := range map[string]os.FileMode{"a": 0o440, "d": 0o700, "d/b": 0o440, "d/c": 0o644} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, fi.Mode().Perm(), name)
	}
	is, err := d.Changes(t.Context(), l, nil)
	require.NoError(t, err)
	want := unpackable().Entries
	require.Len(t, is, len(want))
	for i := range want {
		e := &is[i].Entry
		want[i].Source = e.Source
		require.Equal(t, want[i], *e)
	}

	left, err := os.ReadDir(d.abs(viewsDir))
	require.NoError(t, err)
	for i, bad := range []snapshot.Piece{
		{Change: -1},
		{Change: 6, Bytes: []byte("x")},
		{Change: 2, Bytes: []byte("x")},
		{Change: 5, Bytes: []byte("x")},
		{Change: 4, Off: 1, Bytes: []byte("xx")},
		{Change: 4, Off: -1, Bytes: []byte("x")},
		{Change: 4, Off: 3},
	} {
		_, _, err := unpack(append(good[:2:2], bad)...)
		require.ErrorContains(t, err, "write to", fmt.Sprint(i))
		now, err := os.ReadDir(d.abs(viewsDir))
		require.NoError(t, err)
		require.Len(t, now, len(left))
	}
	gone := unpackable()
	gone.Entries[4].Source = filepath.Join(t.TempDir(), "nothing")
	_, _, err = d.UnpackTree(t.Context(), TreeSpec{
		ID: newID(t), New: TreeOf(&snapshot.Manifest{}), Whole: func(Tree) Tree { return TreeOf(gone) },
		Fill: func(context.Context, PiecesFunc) error { return nil },
	})
	require.Error(t, err)
}
