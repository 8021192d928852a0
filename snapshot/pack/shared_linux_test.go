package pack

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// disk mounts a fresh file system made by a command.
func disk(t testing.TB, mkfs ...string) string {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Loop, testenv.Need(mkfs[0]))
	img, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	require.NoError(t, os.Truncate(img, 1<<30))
	out, err := exec.Command(mkfs[0], append(mkfs[1:], img)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("mount", "-o", "loop", img, dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() {
		out, err := exec.Command("umount", dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	return dir
}

func clone(t testing.TB, from, to string) *os.File {
	src, err := os.Open(from)
	require.NoError(t, err)
	defer src.Close()
	dst, err := os.Create(to)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
	return dst
}

// What a clone shares with the base is not read, and cut as if it had been.
func TestSharedBlocksAreNotRead(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			const size = 24 << 20
			dir := disk(t, mkfs...)
			content := noise(size, 1)
			clear(content[3<<20 : 5<<20])
			old := filepath.Join(dir, "old")
			require.NoError(t, os.WriteFile(old, content, 0o600))
			f := clone(t, old, filepath.Join(dir, "new"))
			defer f.Close()
			for i, at := range []int64{1000, 9<<20 + 5, 20 << 20, size} {
				_, err := f.WriteAt(noise(40_000, uint64(i)+7), at)
				require.NoError(t, err)
			}
			require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 12<<20, 1<<20))

			prev := snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Size: size, Source: old}
			require.NoError(t, Hash(t.Context(), testKey, &prev))
			encode := func(prev snapshot.Entry) ([]snapshot.Chunk, int64) {
				w := newWorld(t)
				o, err := w.options().withDefaults()
				require.NoError(t, err)
				o.Previous = func(string) *snapshot.Entry { return &prev }
				e := newEncoder(o)
				defer e.close()
				require.NoError(t, e.plan([]snapshot.Change{{Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Size: size + 40_000, Source: f.Name()}}}))
				require.NoError(t, e.run(t.Context()))
				return e.files[0].chunks, e.compared.Load()
			}
			chunks, read := encode(prev)
			require.Less(t, read, int64(7<<20), "of %d", size)
			now, err := os.ReadFile(f.Name())
			require.NoError(t, err)
			checkChunks(t, now, chunks)
			prev.Source = ""
			far, all := encode(prev)
			checkChunks(t, now, far)
			require.Greater(t, all, int64(20<<20))

			// Equal blocks of a stranger are no clone, but what it has can be compared.
			prev.Source = filepath.Join(dir, "copy")
			require.NoError(t, os.WriteFile(prev.Source, content, 0o600))
			same, read := encode(prev)
			require.Equal(t, chunks, same)
			require.GreaterOrEqual(t, read, all)
		})
	}
}

func BenchmarkSharedBlocks(b *testing.B) {
	dir := disk(b, "mkfs.xfs", "-q")
	const size = 256 << 20
	content := noise(size, 1)
	old := filepath.Join(dir, "old")
	require.NoError(b, os.WriteFile(old, content, 0o600))
	f := clone(b, old, filepath.Join(dir, "new"))
	defer f.Close()
	for i := range size / 100 / 65536 {
		_, err := f.WriteAt(noise(65536, uint64(i)+7), int64(i)*6_000_000+int64(i)*777)
		require.NoError(b, err)
	}
	w := newWorld(b)
	l := newLine(w)
	ch := []snapshot.Change{{Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Size: size, Source: old}}}
	ix, _, err := Encode(b.Context(), l.options(), ch)
	require.NoError(b, err)
	l.prev, l.known = &ch[0].Entry, ix.Locate()
	b.SetBytes(size)
	for b.Loop() {
		_, stats, err := Encode(b.Context(), l.options(), []snapshot.Change{{Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Size: size, Source: f.Name()}}})
		require.NoError(b, err)
		b.ReportMetric(float64(stats.New)/size*100, "%new")
	}
}
