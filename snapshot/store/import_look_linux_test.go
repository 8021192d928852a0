package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// In a store to look at, a large file may lie in a bundle, as several chunks: all that is
// done with files is done with it.
func TestImportLargeInBundle(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	for _, fewer := range []int{0, 50} {
		t.Run(fmt.Sprint(fewer, " entries in memory"), func(t *testing.T) { testImportLargeInBundle(t, fewer) })
	}
}

func testImportLargeInBundle(t *testing.T, fewer int) {
	src := newBench(t, view.NameErofs)
	big := chaff(3, 3<<20+77)
	one := src.job(func(dir string) {
		for i := range 1500 {
			write(t, fmt.Sprintf("%s/d%d/f%d", dir, i%9, i), fmt.Sprint("small ", i))
		}
		require.NoError(t, os.WriteFile(dir+"/big", big, 0o600))
		require.NoError(t, os.WriteFile(dir+"/other", big[:1<<20], 0o600))
		require.NoError(t, os.Link(dir+"/other", dir+"/d1/same"))
	})
	two := src.job(func(dir string) {
		f, err := os.OpenFile(dir+"/big", os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("changed"), 2<<20)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		write(t, dir+"/more", "more")
	}, one.ID)
	src.packed(one.ID, two.ID)
	r := newRemote(t)
	there := newBench(t, view.NameErofs)
	there.few, there.fewer = fewer, fewer
	there.o.Driver = func(root string) (view.Driver, error) {
		return view.Open(view.NameErofs, root, view.Options{Owners: true, ToLook: true})
	}
	there.reopen()
	for _, id := range []snapshot.ID{one.ID, two.ID} {
		require.NoError(t, there.Import(t.Context(), r.upload(src, id), r.open, nil))
		require.NoError(t, there.Verify(t.Context(), id))
		to := filepath.Join(t.TempDir(), "to")
		_, err := there.Restore(t.Context(), RestoreSpec{Snapshot: id, Dir: to})
		require.NoError(t, err)
		want := filepath.Join(t.TempDir(), "want")
		_, err = src.Restore(t.Context(), RestoreSpec{Snapshot: id, Dir: want})
		require.NoError(t, err)
		require.Equal(t, scanned(t, want), scanned(t, to))
		at := filepath.Join(t.TempDir(), "at")
		c, err := there.Mount(t.Context(), id, at)
		require.NoError(t, err)
		require.Equal(t, scanned(t, want), scanned(t, at))
		require.True(t, read(t, want+"/big") == read(t, at+"/big"))
		require.True(t, read(t, want+"/big") == read(t, to+"/big"))
		require.NoError(t, c.Close())
	}
	m, err := there.Tree(t.Context(), one.ID)
	require.NoError(t, err)
	e, ok := m.Find("big")
	require.True(t, ok)
	require.Positive(t, e.SourceAt)
	require.Greater(t, len(e.Chunks), 2)
	require.True(t, strings.HasSuffix(e.Source, "/bundle"))

	// Its place is found again by the store itself, when the list of places is lost.
	there.crash()
	require.NoError(t, os.Remove(there.dir+"/manifests/"+string(one.ID)+".src"))
	there.open()
	again, err := there.Tree(t.Context(), one.ID)
	require.NoError(t, err)
	for i := range m.Entries {
		require.Equal(t, m.Entries[i].Source, again.Entries[i].Source, m.Entries[i].Path)
		require.Equal(t, m.Entries[i].SourceAt, again.Entries[i].SourceAt, m.Entries[i].Path)
	}

	// One bit in its middle is found.
	f, err := os.OpenFile(e.Source, os.O_RDWR, 0)
	require.NoError(t, err)
	b := make([]byte, 1)
	at := e.SourceAt + 1<<20 + 5
	_, err = f.ReadAt(b, at)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	var corrupt *snapshot.CorruptError
	require.ErrorAs(t, there.Verify(t.Context(), one.ID), &corrupt)
}
