package blob_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
	"github.com/roost-ci/roost/transfer/transfertest"
)

// mountExt4 gives a small file system of its own.
func mountExt4(t *testing.T, size string, args ...string) string {
	t.Helper()
	testenv.Require(t, testenv.Loop)
	img, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
	run(t, "truncate", "-s", size, img)
	run(t, "mkfs.ext4", append([]string{"-q", "-F", "-m", "0"}, append(args, img)...)...)
	run(t, "mount", "-o", "loop", img, dir)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return filepath.Join(dir, "blobs")
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput() //nolint:gosec // a test's own words
	require.NoError(t, err, "%s: %s", name, out)
}

// On a full disk a PUT says 507, leaves nothing behind, spoils nothing that is there, and
// works again once there is room.
func TestFullDisk(t *testing.T) {
	dir := mountExt4(t, "24M")
	s := openDir(t, dir, blob.DirOptions{})
	_, big := blobtest.Random(0, 1)
	require.ErrorIs(t, s.Put(t.Context(), big, 30<<20, func() (io.ReadCloser, error) {
		t.Error("a byte was asked for though it can't fit")
		return http.NoBody, nil
	}), blob.ErrFull)
	srv := transfertest.NewServer(t, s)
	h := client(t, srv.Blobs(), nil)
	var have []snapshot.Digest
	var err error
	for i := uint64(0); err == nil && i < 100; i++ {
		b, d := blobtest.Random(i, 1<<20+int(i))
		if err = h.Put(t.Context(), d, int64(len(b)), blobtest.Bytes(b)); err == nil {
			have = append(have, d)
		}
	}
	require.ErrorIs(t, err, blob.ErrFull)
	require.Greater(t, len(have), 10)
	require.Empty(t, names(t, filepath.Join(dir, "tmp")))
	for i, d := range have {
		want, _ := blobtest.Random(uint64(i), 1<<20+i)
		got, err := blobtest.Get(t.Context(), h, d, 0, -1)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	}
	require.NoError(t, os.Remove(file(dir, have[0])))
	require.NoError(t, os.Remove(file(dir, have[1])))
	b, _ := blobtest.Random(1000, 1<<20)
	blobtest.Put(t, h, b)
}

// eater is a body that fills the disk from elsewhere while it is read: the check before
// the first byte has passed by then.
func TestDiskFillsUpDuringAPut(t *testing.T) {
	dir := mountExt4(t, "24M")
	s := openDir(t, dir, blob.DirOptions{})
	b, d := blobtest.Random(1, 8<<20)
	ballast := filepath.Join(filepath.Dir(dir), "ballast")
	err := s.Put(t.Context(), d, int64(len(b)), func() (io.ReadCloser, error) {
		f, err := os.Create(ballast)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // a test's file
		for err == nil {
			_, err = f.Write(make([]byte, 64<<10))
		}
		return blobtest.Bytes(b)()
	})
	require.ErrorIs(t, err, blob.ErrFull)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.Empty(t, names(t, filepath.Join(dir, "tmp")))
	_, err = s.Stat(t.Context(), d)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	require.NoError(t, os.Remove(ballast))
	blobtest.Put(t, s, b)
}

// A file system has no inodes left long before it has no bytes left.
func TestNoInodes(t *testing.T) {
	dir := mountExt4(t, "24M", "-N", "320") // 256 of them for 00 to ff
	s := openDir(t, dir, blob.DirOptions{})
	var err error
	n := 0
	for ; err == nil && n < 400; n++ {
		b, d := blobtest.Random(uint64(n), 100)
		err = s.Put(context.WithoutCancel(t.Context()), d, 100, blobtest.Bytes(b))
	}
	require.ErrorIs(t, err, blob.ErrFull)
	require.Greater(t, n, 10)
	require.Empty(t, names(t, filepath.Join(dir, "tmp")))
}
