//go:build bench && linux

package bench

import (
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shape is a kind of tree. make fills dir, which is there and empty; it makes the
// same tree each time.
type shape struct {
	name string
	make func(t *testing.T, dir string, scale float64)
}

// shapes are the trees that there can be on this machine, in the order of the tables.
func shapes() []shape {
	list := []shape{
		{"small", makeSmall},
		{"node", makeNode},
		{"game", makeGame},
	}
	if goroot() != "" {
		list = append(list, shape{"goroot", makeGoroot})
	}
	return list
}

func goroot() string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "src")); err != nil {
		return ""
	}
	return dir
}

// epoch is about when all files were written, so that runs on different days make
// the same trees.
var epoch = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// writer makes files and remembers what went wrong first.
type writer struct {
	t     *testing.T
	rng   *rand.Rand
	words [][]byte
	n     int // files so far
}

func newWriter(t *testing.T, seed uint64) *writer {
	w := &writer{t: t, rng: rand.New(rand.NewPCG(seed, 20))}
	for range 4096 {
		word := make([]byte, 2+w.rng.IntN(9))
		for i := range word {
			word[i] = byte('a' + w.rng.IntN(26))
		}
		w.words = append(w.words, append(word, " \n(.;,_"[w.rng.IntN(7)]))
	}
	return w
}

// text is n bytes that compress about as source text does: words of which few are
// frequent.
func (w *writer) text(n int) []byte {
	b := make([]byte, 0, n+16)
	for len(b) < n {
		u := w.rng.Float64()
		b = append(b, w.words[int(u*u*u*float64(len(w.words)))]...)
	}
	return b[:n]
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

// size is drawn so that half of the files are below the median, the mean is a bit
// more, and a few are large.
func (w *writer) size(median, most int) int {
	return min(int(float64(median)*math.Exp(w.rng.NormFloat64()*0.9)), most)
}

func (w *writer) file(path string, content []byte) {
	require.NoError(w.t, os.WriteFile(path, content, 0o644))
	at := epoch.Add(time.Duration(w.n) * 1234567)
	require.NoError(w.t, os.Chtimes(path, at, at))
	w.n++
}

func (w *writer) dir(elem ...string) string {
	path := filepath.Join(elem...)
	require.NoError(w.t, os.MkdirAll(path, 0o755))
	return path
}

// done gives all directories the time that the files have: a tree is seldom made
// in the second in which it is copied, and rsync compares seconds.
func (w *writer) done(root string) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chtimes(path, epoch, epoch)
	})
	require.NoError(w.t, err)
}

// makeSmall is 5,000 files of 10 kB in 250 directories: a middling repository
// with what its build made.
func makeSmall(t *testing.T, dir string, scale float64) {
	w := newWriter(t, 1)
	defer w.done(dir)
	for i := range int(5000 * scale) {
		d := filepath.Join(dir, fmt.Sprintf("part-%02d/unit-%03d", i/500, i/20))
		if i%20 == 0 {
			w.dir(d)
		}
		w.file(fmt.Sprintf("%s/source_%d.go", d, i), w.text(w.size(6600, 1<<20)))
	}
}

// makeNode is 30,000 files of 2 kB, 22 to a package of two or three directories,
// with symlinks to programs.
func makeNode(t *testing.T, dir string, scale float64) {
	w := newWriter(t, 2)
	defer w.done(dir)
	bin := w.dir(dir, ".bin")
	for p := range int(30000 * scale / 22) {
		root := w.dir(dir, fmt.Sprintf("@scope-%d", p%40), fmt.Sprintf("package-%d", p))
		lib, esm := w.dir(root, "lib"), w.dir(root, "esm", "internal")
		w.file(root+"/package.json", w.text(w.size(1200, 8000)))
		w.file(root+"/README.md", w.text(w.size(2500, 30000)))
		for i := range 10 {
			w.file(fmt.Sprintf("%s/part%d.js", lib, i), w.text(w.size(1300, 300_000)))
			w.file(fmt.Sprintf("%s/part%d.d.ts", esm, i), w.text(w.size(700, 100_000)))
		}
		if p%20 == 0 {
			require.NoError(t, os.Symlink("../"+filepath.Base(filepath.Dir(root))+"/"+filepath.Base(root)+"/lib/part0.js",
				fmt.Sprintf("%s/tool-%d", bin, p)))
		}
	}
}

// makeGame is 8 files of 32 MiB, one half of each like text, the other noise.
func makeGame(t *testing.T, dir string, scale float64) {
	w := newWriter(t, 3)
	defer w.done(dir)
	d := w.dir(dir, "content", "cooked")
	for i := range 8 {
		half := int(16 * scale * (1 << 20))
		w.file(fmt.Sprintf("%s/chunk%d.pak", d, i), append(w.text(half), w.noise(half)...))
	}
}

// makeGoroot is the Go installation that runs this: a real tree.
func makeGoroot(t *testing.T, dir string, _ float64) {
	shell(t, `cp -a "$1"/. "$2"/`, goroot(), dir)
}

// changeSome writes 64 bytes into each of ten files, or into a quarter of them if
// there are fewer than forty, spread over the tree; other files and bytes each
// round. It is what a small job does to a large tree.
func changeSome(t *testing.T, dir string, files []string, round int) {
	w := newWriter(t, uint64(1000+round))
	n := min(10, (len(files)+3)/4)
	step := len(files) / n
	at := epoch.Add(time.Hour * time.Duration(round+1)).Truncate(time.Second)
	for i := range n {
		path := filepath.Join(dir, files[(i*step+round)%len(files)])
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		require.NoError(t, err)
		st, err := f.Stat()
		require.NoError(t, err)
		_, err = f.WriteAt(w.noise(64), st.Size()/2)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		if at.Before(st.ModTime()) {
			at = st.ModTime().Truncate(time.Second).Add(time.Hour)
		}
		require.NoError(t, os.Chtimes(path, at, at))
	}
}
