package pack

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// gameTree is files of 24 MiB, half of each incompressible, and what a build does to
// them: scattered pieces of 64 KiB are written anew, 1 % of the bytes, and into one
// file some bytes are inserted.
type gameTree struct {
	t        testing.TB
	dir      string
	before   []snapshot.Change // as the base has them
	after    []snapshot.Change
	changed  int64 // bytes that were written anew
	contents [][]byte
}

const (
	gameFiles = 6
	gameBytes = 24 << 20
)

// newGameTree makes it in dir, which clones files if clones says so.
func newGameTree(t testing.TB, dir string, clones bool) *gameTree {
	g := &gameTree{t: t, dir: dir}
	p := newProse(5)
	for i := range gameFiles {
		var content []byte
		for j := range gameBytes >> 20 {
			content = append(append(content, p.Text(512<<10)...), noise(512<<10, uint64(i*64+j))...)
		}
		g.contents = append(g.contents, content)
		g.before = append(g.before, g.change("old", i, content))
	}
	rng := rand.New(rand.NewPCG(11, 12))
	for i, content := range g.contents {
		if clones {
			g.clone(i)
		} else {
			g.change("new", i, content)
		}
		f, err := os.OpenFile(g.path("new", i), os.O_WRONLY, 0)
		require.NoError(t, err)
		for n := range gameBytes / 100 / (64 << 10) {
			at := rng.IntN(gameBytes - 64<<10)
			piece := p.Text(64 << 10)
			if n%2 == 0 {
				piece = noise(64<<10, rng.Uint64())
			}
			_, err := f.WriteAt(piece, int64(at))
			require.NoError(t, err)
			copy(content[at:], piece)
			g.changed += 64 << 10
		}
		require.NoError(t, f.Close())
	}
	// The last file is written as a whole: programs do not insert.
	last, at := g.contents[gameFiles-1], gameBytes/3
	last = append(append(append([]byte(nil), last[:at]...), noise(53, 1)...), last[at:]...)
	require.NoError(t, os.Remove(g.path("new", gameFiles-1)))
	g.change("new", gameFiles-1, last)
	g.contents[gameFiles-1] = last
	g.changed += 53
	for i := range gameFiles {
		g.after = append(g.after, g.entry("new", i, len(g.contents[i])))
	}
	return g
}

func (g *gameTree) path(gen string, i int) string {
	return filepath.Join(g.dir, fmt.Sprintf("%s-%d", gen, i))
}

func (g *gameTree) clone(i int) {
	clone(g.t, g.path("old", i), g.path("new", i)).Close()
}

func (g *gameTree) change(gen string, i int, content []byte) snapshot.Change {
	require.NoError(g.t, os.WriteFile(g.path(gen, i), content, 0o644))
	return g.entry(gen, i, len(content))
}

func (g *gameTree) entry(gen string, i, size int) snapshot.Change {
	return snapshot.Change{Entry: snapshot.Entry{
		Path: fmt.Sprint(i), Type: snapshot.TypeFile, Mode: 0o644, Size: int64(size), Source: g.path(gen, i),
	}}
}

// options stand on what the base is.
func (g *gameTree) options(w *world, known map[snapshot.Digest]Location) EncoderOptions {
	o := w.options()
	o.Known = func(d snapshot.Digest) (Location, bool) { l, ok := known[d]; return l, ok }
	o.Previous = func(path string) *snapshot.Entry {
		for i := range g.before {
			if g.before[i].Entry.Path == path {
				return &g.before[i].Entry
			}
		}
		return nil
	}
	return o
}

// eachDisk runs f on a file system with a journal and on one that clones.
func eachDisk[T testing.TB](t T, run func(name string, f func(t T)), f func(t T, dir string, clones bool)) {
	run("ext4", func(t T) { f(t, disk(t, "mkfs.ext4", "-q", "-F"), false) })
	run("xfs", func(t T) { f(t, disk(t, "mkfs.xfs", "-q"), true) })
}

// BenchmarkGame saves the change to the tree. stored/changed is the bytes of its
// packs and index to those that were written anew; read/changed what was read of the
// files to find them.
func BenchmarkGame(b *testing.B) {
	eachDisk(b, func(name string, f func(b *testing.B)) { b.Run(name, f) }, func(b *testing.B, dir string, clones bool) {
		g := newGameTree(b, dir, clones)
		w := newWorld(b)
		ix, _, err := Encode(b.Context(), w.options(), g.before)
		require.NoError(b, err)
		o := g.options(w, ix.Locate())
		b.SetBytes(gameFiles * gameBytes)
		var stats Stats
		var index int
		for b.Loop() {
			for i := range g.after {
				g.after[i].Entry.Chunks = nil
			}
			next, s, err := Encode(b.Context(), o, g.after)
			require.NoError(b, err)
			stats, index = s, len(encodeIndex(b, next))
		}
		b.ReportMetric(float64(stats.Stored+int64(index))/float64(g.changed), "stored/changed")
		b.ReportMetric(float64(stats.New)/float64(g.changed), "new/changed")
		b.ReportMetric(float64(index), "index-bytes")
	})
}
