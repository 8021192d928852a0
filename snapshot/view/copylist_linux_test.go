package view

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// entryList is an Entries of no small memory.
type entryList []snapshot.Entry

func (l *entryList) Append(e *snapshot.Entry) error {
	*l = append(*l, *e)
	return nil
}

func (l *entryList) Each(fn func(e *snapshot.Entry) error) error {
	return TreeOf(&snapshot.Manifest{Entries: *l})(fn)
}

// listOver lists a sealed copy over base.
func listOver(t *testing.T, d *Copy, l *Layer, base *snapshot.Manifest) (map[string]snapshot.Entry, Sum) {
	t.Helper()
	list, err := d.List(t.Context(), l, &entryList{})
	require.NoError(t, err)
	var below Tree
	if base != nil {
		below = TreeOf(base)
	}
	tree, sum, err := list.Over(t.Context(), below)
	require.NoError(t, err)
	out := map[string]snapshot.Entry{}
	require.NoError(t, tree(func(e *snapshot.Entry) error { out[e.Path] = *e; return nil }))
	return out, sum
}

// What a copy's list says of links, and what it takes from a base.
func TestListOfCopy(t *testing.T) {
	root := t.TempDir()
	made, err := NewCopy(filepath.Join(root, "s"), Options{})
	require.NoError(t, err)
	d, ok := made.(*Copy)
	require.True(t, ok)
	job := func(base *Layer, fn func(dir string)) *Layer {
		v, err := d.Prepare(t.Context(), Spec{ID: newID(t), Base: base, Target: filepath.Join(root, "t")})
		require.NoError(t, err)
		fn(v.Target)
		require.NoError(t, d.Seal(t.Context(), v))
		return &v.Layer
	}
	put := func(name, s string) { require.NoError(t, os.WriteFile(name, []byte(s), 0o600)) }
	one := job(nil, func(dir string) {
		put(dir+"/a", "two names")
		put(dir+"/b", "as well")
		put(dir+"/empty", "")
		require.NoError(t, os.Mkdir(dir+"/e", 0o700))
		put(dir+"/e/other", "12345")
		require.NoError(t, os.Link(dir+"/b", dir+"/c"))
		require.NoError(t, os.Link(dir+"/a", dir+"/d")) // whose first name is before the other's
	})
	was, sum := listOver(t, d, one, nil)
	require.Equal(t, Sum{Entries: 8, Bytes: 9 + 7 + 5}, sum)
	for name, link := range map[string]string{"a": "a", "b": "b", "c": "b", "d": "a", "empty": ""} {
		require.Equal(t, link, was[name].Link, name)
	}

	two := job(one, func(dir string) {
		require.NoError(t, os.Chmod(dir+"/empty", 0o644)) // and back: it is another file for all we know
		require.NoError(t, os.Chmod(dir+"/empty", 0o600))
		require.NoError(t, os.Rename(dir+"/e", dir+"/renamed")) // which is no change of what is in it
	})
	base := &snapshot.Manifest{}
	for _, name := range []string{"", "a", "b", "c", "d", "e", "e/other", "empty"} {
		e := was[name]
		if e.Type == snapshot.TypeFile {
			e.Source = "/base/" + name
			if e.Size > 0 {
				e.Chunks = []snapshot.Chunk{{Len: e.Size}}
			}
		}
		base.Entries = append(base.Entries, e)
	}
	is, sum := listOver(t, d, two, base)
	require.Equal(t, Sum{Entries: 8, Bytes: 9 + 7 + 5}, sum)
	for name, source := range map[string]string{"a": "a", "b": "b", "c": "c", "d": "d", "empty": "empty", "renamed/other": "e/other"} {
		require.Equal(t, "/base/"+source, is[name].Source, name)
	}

	base.Entries[6].Size = 4 // a base that is not the one it was
	is, _ = listOver(t, d, two, base)
	require.Equal(t, d.abs(two.Dir)+"/renamed/other", is["renamed/other"].Source)

	broken, _, err := (&copied{list: &entryList{}, n: 1}).Over(t.Context(), nil)
	require.NoError(t, err)
	require.Error(t, broken(func(*snapshot.Entry) error { return nil }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.List(ctx, two, &entryList{})
	require.ErrorIs(t, err, context.Canceled)
}
