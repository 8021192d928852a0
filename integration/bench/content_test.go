//go:build bench && linux

package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
)

// epoch is about when generated files were written, so that runs on different days
// make the same trees.
var epoch = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// writer makes files, the same ones for the same seed.
type writer struct {
	*testenv.Prose
	t   *testing.T
	rng *rand.Rand
	n   int // files so far
}

func newWriter(t *testing.T, seed uint64) *writer {
	rng := rand.New(rand.NewPCG(seed, 20))
	return &writer{Prose: testenv.NewProse(rng), t: t, rng: rng}
}

// noise is n bytes that do not compress.
func (w *writer) noise(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := w.rng.Uint64()
		for j := i; j < min(i+8, n); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}

func (w *writer) file(path string, content []byte) {
	require.NoError(w.t, os.WriteFile(path, content, 0o644))
	w.stamp(path, epoch)
}

// stamp gives each file a time of its own.
func (w *writer) stamp(path string, from time.Time) {
	at := from.Add(time.Duration(w.n) * 1234567)
	require.NoError(w.t, os.Chtimes(path, at, at))
	w.n++
}

func (w *writer) dir(elem ...string) string {
	path := filepath.Join(elem...)
	require.NoError(w.t, os.MkdirAll(path, 0o755))
	return path
}

// makePackages is about what npm leaves: packages of 22 small files in a few
// directories, 30,000 files in all.
func makePackages(t *testing.T, dir string, scale float64) {
	w := newWriter(t, 2)
	for p := range int(30000 * scale / 22) {
		root := w.dir(dir, fmt.Sprintf("@scope-%d", p%40), fmt.Sprintf("package-%d", p))
		lib, esm := w.dir(root, "lib"), w.dir(root, "esm", "internal")
		w.file(root+"/package.json", w.Text(w.Size(1200, 8000)))
		w.file(root+"/README.md", w.Text(w.Size(2500, 30000)))
		for i := range 10 {
			w.file(fmt.Sprintf("%s/part%d.js", lib, i), w.Text(w.Size(1300, 300_000)))
			w.file(fmt.Sprintf("%s/part%d.d.ts", esm, i), w.Text(w.Size(700, 100_000)))
		}
	}
}

// Sizes of the game-like tree.
const (
	gameFiles   = 8
	gameBytes   = 64 << 20 // of each file, at scale 1
	gameBlock   = 64 << 10 // is overwritten at once
	gameInsert  = 4099     // bytes put into the middle of the last file
	gameOneIn   = 100      // blocks of which one is overwritten
	gameSectors = 4096     // offsets of overwrites are multiples of it
)

// makeGame is a few large files, one half of each like text, the other noise; then
// one percent of their bytes is overwritten in place with noise, scattered, and in
// one of them something is inserted.
func makeGame(t *testing.T, set settings, dir string) *tree {
	w := newWriter(t, 3)
	d := w.dir(dir, "v0", "content", "cooked")
	size := max(int(set.scale*gameBytes)&^(gameSectors-1), 4<<20)
	for i := range gameFiles {
		w.file(fmt.Sprintf("%s/chunk%d.pak", d, i), append(w.Text(size/2), w.noise(size/2)...))
	}
	must(t, `cp -a "$V0" "$V1"`, "V0="+dir+"/v0", "V1="+dir+"/v1")
	changed := changeGame(t, dir+"/v1")
	return &tree{
		What:    fmt.Sprintf("%d files of %d MiB, half text, half noise; then 1 %% of the bytes overwritten in scattered blocks of 64 KiB, and 4,099 bytes inserted into one file", gameFiles, size>>20),
		Changed: changed, Touched: gameFiles,
	}
}

// changeGame overwrites in place, as a cooker does, so that a file system that
// shares extents goes on sharing the rest. It returns the bytes that are new.
func changeGame(t *testing.T, dir string) (changed int64) {
	w := newWriter(t, 4)
	for i := range gameFiles {
		path := fmt.Sprintf("%s/content/cooked/chunk%d.pak", dir, i)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		st, err := f.Stat()
		require.NoError(t, err)
		for range max(int(st.Size()/gameBlock/gameOneIn), 1) {
			at := w.rng.Int64N((st.Size()-gameBlock)/gameSectors) * gameSectors
			_, err := f.WriteAt(w.noise(gameBlock), at)
			require.NoError(t, err)
			changed += gameBlock
		}
		if i == gameFiles-1 {
			rest := make([]byte, st.Size()/2)
			_, err := f.ReadAt(rest, st.Size()-int64(len(rest)))
			require.NoError(t, err)
			_, err = f.WriteAt(append(w.noise(gameInsert), rest...), st.Size()-int64(len(rest)))
			require.NoError(t, err)
			changed += gameInsert
		}
		require.NoError(t, f.Close())
		w.stamp(path, epoch.Add(time.Hour))
	}
	return changed
}
