package blob_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

func openDir(t testing.TB, dir string, o blob.DirOptions) *blob.Dir {
	t.Helper()
	s, err := blob.OpenDir(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // some tests close it themselves
	return s
}

func file(dir string, d snapshot.Digest) string {
	return filepath.Join(dir, d.String()[:2], d.String())
}

func TestDir(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return openDir(t, t.TempDir(), blob.DirOptions{}) })
}

func TestDirLeavesNoTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, blob.DirOptions{})
	b, d := blobtest.Random(1, 10_000)
	require.Error(t, s.Put(t.Context(), d, 10_000, blobtest.Bytes(b[:5000])))
	require.Error(t, s.Put(t.Context(), d, 9_999, blobtest.Bytes(b)))
	b[0]++
	require.Error(t, s.Put(t.Context(), d, 10_000, blobtest.Bytes(b)))
	b[0]--
	blobtest.Put(t, s, b)
	require.Empty(t, names(t, filepath.Join(dir, "tmp")))
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func TestDirKeepsBlobsAndCleansUpWhenReopened(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, blob.DirOptions{})
	b, _ := blobtest.Random(2, 4096)
	d := blobtest.Put(t, s, b)
	left := filepath.Join(dir, "tmp", "tmp-of-a-crash")
	require.NoError(t, os.WriteFile(left, b, 0o600))

	// Somebody else has it open and may be writing: nothing is cleaned.
	s2 := openDir(t, dir, blob.DirOptions{})
	require.FileExists(t, left)
	require.NoError(t, s2.Close())
	require.NoError(t, s.Close())

	s3 := openDir(t, dir, blob.DirOptions{})
	require.NoFileExists(t, left)
	got, err := blobtest.Get(t.Context(), s3, d, 0, -1)
	require.NoError(t, err)
	require.Equal(t, b, got)
}

// A file that a bad disk or a hasty copy cut short is not taken for the blob, and
// the next Put repairs it.
func TestDirDistrustsASizeMismatch(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, blob.DirOptions{})
	b, _ := blobtest.Random(3, 50_000)
	d := blobtest.Put(t, s, b)
	require.NoError(t, os.Truncate(file(dir, d), 49_999))

	wrong := bytes.Clone(b)
	wrong[0]++
	var c *snapshot.CorruptError
	require.ErrorAs(t, s.Put(t.Context(), d, 50_000, blobtest.Bytes(wrong)), &c)
	blobtest.Put(t, s, b)
	got, err := blobtest.Get(t.Context(), s, d, 0, -1)
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, got))

	// Nor is a good blob replaced because a client announces another size.
	require.ErrorAs(t, s.Put(t.Context(), d, 3, blobtest.Bytes(b[:3])), &c)
	got, err = blobtest.Get(t.Context(), s, d, 0, -1)
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, got))
}

// A reader that has a blob open must see a short one as broken, not as its end.
func TestDirReaderSeesATruncatedFile(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, blob.DirOptions{})
	b, _ := blobtest.Random(4, 50_000)
	d := blobtest.Put(t, s, b)
	r, err := s.Get(t.Context(), d, 0, -1)
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // only read from
	require.NoError(t, os.Truncate(file(dir, d), 20_000))
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestDirRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, blob.DirOptions{})
	_, d := blobtest.Random(5, 10)
	require.NoError(t, os.Symlink("/etc/passwd", file(dir, d)))
	_, err := s.Stat(t.Context(), d)
	var c *snapshot.CorruptError
	require.ErrorAs(t, err, &c)
	_, d2 := blobtest.Random(6, 10)
	require.NoError(t, os.Mkdir(file(dir, d2), 0o700))
	_, err = s.Get(t.Context(), d2, 0, -1)
	require.ErrorAs(t, err, &c)
}

func TestDirKeepsMinFree(t *testing.T) {
	s := openDir(t, t.TempDir(), blob.DirOptions{MinFree: 1 << 60})
	b, d := blobtest.Random(7, 10)
	err := s.Put(t.Context(), d, 10, func() (io.ReadCloser, error) {
		t.Error("the body was read though there is no room")
		return io.NopCloser(bytes.NewReader(b)), nil
	})
	require.ErrorIs(t, err, blob.ErrFull)
}

func TestOpenDirSaysWhich(t *testing.T) {
	f := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(f, nil, 0o600))
	_, err := blob.OpenDir(f, blob.DirOptions{})
	require.ErrorContains(t, err, f)
}
