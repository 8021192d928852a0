package blob_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, blob.DirOptions{})
	want := map[snapshot.Digest]int64{}
	var all []snapshot.Digest
	for i := range 20 {
		b, d := blobtest.Random(uint64(i), 1000*i)
		blobtest.Put(t, s, b)
		want[d] = int64(len(b))
		all = append(all, d)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00", "README"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00", "ff"+all[0].String()[2:]), nil, 0o600))
	got := map[snapshot.Digest]int64{}
	var last snapshot.Digest
	require.NoError(t, s.Each(t.Context(), func(d snapshot.Digest, n int64) error {
		require.Negative(t, last.Compare(d))
		last = d
		got[d] = n
		return nil
	}))
	require.Equal(t, want, got)
	stop := errors.New("stop")
	require.ErrorIs(t, s.Each(t.Context(), func(snapshot.Digest, int64) error { return stop }), stop)

	for _, d := range all {
		require.NoError(t, s.Check(t.Context(), d))
	}
	flipped, short := all[7], all[9]
	b, err := os.ReadFile(file(dir, flipped))
	require.NoError(t, err)
	b[3000] ^= 4
	require.NoError(t, os.WriteFile(file(dir, flipped), b, 0o600))
	require.NoError(t, os.Truncate(file(dir, short), 8999))
	for _, d := range []snapshot.Digest{flipped, short} {
		var c *snapshot.CorruptError
		require.ErrorAs(t, s.Check(t.Context(), d), &c)
		require.ErrorIs(t, s.Check(t.Context(), d), snapshot.ErrNotFound)
		_, err = s.Stat(t.Context(), d)
		require.ErrorIs(t, err, snapshot.ErrNotFound)
		require.FileExists(t, filepath.Join(dir, "bad", d.String()))
	}
	b[3000] ^= 4
	require.Equal(t, flipped, blobtest.Put(t, s, b))
	require.NoError(t, s.Check(t.Context(), flipped))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Check(ctx, flipped), context.Canceled)
	require.NoError(t, s.Check(t.Context(), flipped), "a canceled check condemns nothing")
}
