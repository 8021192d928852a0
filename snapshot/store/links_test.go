package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// relinked makes a line of snapshots in which a file gets and loses names while
// its first name stays as it was. An overlay splits a group of hard links with
// each new name, a copy does not; either is to look the same elsewhere.
func relinked(t *testing.T, b *bench, content string) []snapshot.ID {
	t.Helper()
	var ids []snapshot.ID
	step := func(fn func(dir string)) {
		ids = append(ids, b.job(fn, ids[max(0, len(ids)-1):]...).ID)
	}
	link := func(from, to string) {
		step(func(dir string) {
			require.NoError(t, os.Link(filepath.Join(dir, from), filepath.Join(dir, to)))
		})
	}
	step(func(dir string) {
		write(t, dir+"/first", content)
		require.NoError(t, os.Link(dir+"/first", dir+"/name"))
	})
	link("name", "name0")
	step(func(dir string) { write(t, dir+"/other", "other") })
	link("name", "name2")
	step(func(dir string) { require.NoError(t, os.Rename(dir+"/name", dir+"/a")) })
	link("name2", "z")
	step(func(dir string) { require.NoError(t, os.Chmod(dir+"/z", 0o600)) })
	return ids
}

func TestImportOfRelinkedFiles(t *testing.T) {
	for name, content := range map[string]string{"content": "content", "empty": ""} {
		drivers(t, func(t *testing.T, from string) {
			t.Run(name, func(t *testing.T) {
				src := newBench(t, from)
				ids := relinked(t, src, content)
				src.packed(ids...)
				drivers(t, func(t *testing.T, to string) {
					r, dst := newRemote(t), newBench(t, to)
					for i, id := range ids {
						require.NoError(t, dst.Import(t.Context(), r.upload(src, id), r.open, nil))
						require.Equal(t, src.requireTree(id), dst.requireTree(id), "step %d", i)
						require.NoError(t, dst.Verify(t.Context(), id), "step %d", i)
					}
				})
			})
		})
	}
}

// A merge that gives a file of its first parent a further name shows one file.
func TestMergeOfRelinkedFiles(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		base := b.job(func(dir string) {
			for _, n := range []string{"first", "name"} {
				write(t, dir+"/"+n, "content")
				require.NoError(t, os.Link(dir+"/"+n, dir+"/"+n+"0"))
			}
		})
		one := b.job(func(dir string) { write(t, dir+"/one", "1") }, base.ID)
		two := b.job(func(dir string) {
			require.NoError(t, os.Link(dir+"/name", dir+"/name2"))
		}, base.ID)
		both := b.job(func(dir string) {
			x, err := os.Stat(dir + "/name")
			require.NoError(t, err)
			y, err := os.Stat(dir + "/name2")
			require.NoError(t, err)
			require.True(t, os.SameFile(x, y))
		}, one.ID, two.ID)
		b.requireTree(both.ID)
		b.packed(base.ID, one.ID, two.ID, both.ID)
		require.NoError(t, b.Verify(t.Context(), both.ID))
	})
}
