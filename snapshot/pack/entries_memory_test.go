package pack

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// manyEntries is n new files of 600 bytes, ten to a directory. All of them lie in
// one bundle, so that they are made quickly.
func manyEntries(t testing.TB, dir string, n int) []snapshot.Change {
	const size = 600
	bundle := filepath.Join(dir, "bundle")
	require.NoError(t, os.WriteFile(bundle, noise(1<<20, 9), 0o600))
	rng := rand.New(rand.NewPCG(1, 2))
	list := make([]snapshot.Change, 0, n)
	for i := range n {
		list = append(list, snapshot.Change{Entry: snapshot.Entry{
			Path: fmt.Sprintf("packages/module-%07d/internal/some_source_file_%d.go", i/10, i%10),
			Type: snapshot.TypeFile, Mode: 0o644, MTime: int64(i) << 20, Size: size,
			Source: bundle, SourceAt: 1 + rng.Int64N(1<<20-size-1),
		}})
	}
	return list
}

// perEntry returns how many bytes more fn needs for each entry when there are more
// of them: what it needs anyhow does not count. Garbage that nobody has collected yet
// does, so the lesser of two times is what is told.
func perEntry(few, many int, fn func(n int) uint64) float64 {
	a, b := fn(few), fn(many)
	for range 1 {
		a, b = min(a, fn(few)), min(b, fn(many))
	}
	return (float64(b) - float64(a)) / float64(many-few)
}

// live returns by how much the heap is larger for what fn returns.
func live(fn func() any) uint64 {
	runtime.GC()
	start := heap()
	keep := fn()
	runtime.GC()
	n := heap()
	runtime.KeepAlive(keep)
	return max(n, start) - start
}

// What a tree of very many small files costs in memory grows with their number, and
// by no more than this for each.
func TestMemoryPerEntry(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	w := newWorld(t)
	if testing.Short() {
		t.Skip("only the slope between many and very many says something")
	}
	few, many := 60_000, 180_000
	all := manyEntries(t, w.dir, many)
	index := func(n int) *Index {
		o := w.options()
		o.discard = true
		ix, _, err := Encode(t.Context(), o, all[:n])
		require.NoError(t, err)
		return ix
	}
	index(many) // all are hashed now
	manifest := func(n int) *snapshot.Manifest {
		m := &snapshot.Manifest{Entries: make([]snapshot.Entry, 0, n)}
		for i := range n {
			m.Entries = append(m.Entries, all[i].Entry)
		}
		return m
	}
	for _, c := range []struct {
		name string
		most float64
		used func(n int) uint64
	}{
		{"encode", 260, func(n int) uint64 {
			changes := append([]snapshot.Change(nil), all[:n]...)
			for i := range changes {
				changes[i].Entry.Chunks = nil
			}
			o := w.options()
			o.Workers, o.discard = 1, true
			return peak(func() {
				_, _, err := Encode(t.Context(), o, changes)
				require.NoError(t, err)
			})
		}},
		{"a list", 60, func(n int) uint64 {
			return live(func() any {
				l := &List{}
				for i := range n {
					require.NoError(t, l.Append(&all[i].Entry))
				}
				return l
			})
		}},
		{"a stream and its index", 220, func(n int) uint64 {
			o := w.options()
			o.Workers, o.discard = 1, true
			return peak(func() {
				st, err := NewStream(o, n)
				require.NoError(t, err)
				defer st.Close()
				part := make([]snapshot.Change, 0, 4000)
				for c := range slices.Chunk(all[:n], cap(part)) {
					part = append(part[:0], c...)
					for i := range part {
						part[i].Entry.Chunks = nil
					}
					require.NoError(t, st.Add(t.Context(), part))
				}
				ix, _, err := st.Finish(t.Context())
				require.NoError(t, err)
				_, err = st.WriteIndex(io.Discard, ix)
				require.NoError(t, err)
			})
		}},
		{"plan of extracting", 80, func(n int) uint64 {
			ix := index(n)
			return peak(func() {
				_, err := planExtract(ix, tableOf(ix.Chunks))
				require.NoError(t, err)
			})
		}},
		{"a manifest that was read", 300, func(n int) uint64 {
			raw, _ := encodeManifest(t, manifest(n))
			return live(func() any {
				m, _, err := ReadManifest(bytes.NewReader(raw))
				require.NoError(t, err)
				return []any{m, raw}
			})
		}},
		{"writing an index", 250, func(n int) uint64 {
			ix := index(n)
			return peak(func() {
				_, err := WriteIndex(io.Discard, ix)
				require.NoError(t, err)
			})
		}},
		{"reading an index", 450, func(n int) uint64 {
			raw := encodeIndex(t, index(n))
			return peak(func() {
				_, err := ReadIndex(bytes.NewReader(raw))
				require.NoError(t, err)
			})
		}},
		{"reading a manifest", 400, func(n int) uint64 {
			raw, _ := encodeManifest(t, manifest(n))
			return peak(func() {
				_, _, err := ReadManifest(bytes.NewReader(raw))
				require.NoError(t, err)
			})
		}},
		{"writing a manifest", 20, func(n int) uint64 {
			m := manifest(n)
			return peak(func() {
				_, err := ManifestDigest(m)
				require.NoError(t, err)
			})
		}},
	} {
		got := perEntry(few, many, c.used)
		t.Logf("%s: %.0f bytes per entry", c.name, got)
		require.Less(t, got, c.most, c.name)
	}
}
