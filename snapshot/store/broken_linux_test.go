package store

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

func mknod(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
}

func TestUnsupportedEntryBreaksTheLayer(t *testing.T) {
	testenv.Require(t, testenv.Root)
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		one := b.job(func(dir string) { write(t, dir+"/f", "x") })
		bad := b.job(func(dir string) { mknod(t, dir+"/null") }, one.ID)
		require.Equal(t, Broken, bad.State)
		require.Equal(t, (&snapshot.UnsupportedError{Path: "null", What: "character device"}).Error(), bad.Err)
		_, err := b.Prepare(t.Context(), b.spec(bad.ID))
		require.ErrorIs(t, err, snapshot.ErrNotFound)
		require.ErrorContains(t, err, "character device")
		views := b.Views()
		require.Len(t, views, 2)
		b.packed(one.ID)
		b.reopen()
		in, err := b.Lookup(bad.ID)
		require.NoError(t, err)
		require.Equal(t, bad.State, in.State)
		require.Equal(t, bad.Err, in.Err)
		require.NoError(t, b.Remove(t.Context(), bad.ID))
		b.job(nil, one.ID)
	})
}
