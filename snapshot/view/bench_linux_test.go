package view

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// files makes n small files in directories of 100.
func (h *host) files(dir, prefix string, n int) {
	for i := range n {
		h.put(dir, fmt.Sprintf("%s%d/f%d", prefix, i/100, i), "content")
	}
}

// BenchmarkAttach is Prepare of a view on one parent and the Seal of it, on trees
// of different sizes and chains of different lengths: neither should matter.
func BenchmarkAttach(b *testing.B) {
	for _, c := range []struct{ files, depth int }{{100, 1}, {10_000, 1}, {100, 10}, {100, 100}} {
		b.Run(fmt.Sprintf("files=%d/depth=%d", c.files, c.depth), func(b *testing.B) {
			h := newHost(b, Options{})
			l, _ := h.job(nil, nil, func(dir string) { h.files(dir, "d", c.files) })
			for range c.depth - 1 {
				v := h.prepare(l, nil)
				h.put(v.Target, "one", "more")
				require.NoError(b, h.d.Seal(b.Context(), v))
				l = &v.Layer
			}
			var views []*View
			b.Run("prepare", func(b *testing.B) {
				for b.Loop() {
					views = append(views, h.prepare(l, nil))
				}
			})
			b.Run("seal", func(b *testing.B) {
				for b.Loop() {
					if len(views) == 0 {
						b.StopTimer()
						for range 200 {
							views = append(views, h.prepare(l, nil))
						}
						b.StartTimer()
					}
					require.NoError(b, h.d.Seal(b.Context(), views[0]))
					views = views[1:]
				}
			})
		})
	}
}

// BenchmarkFanin is Prepare of a view whose fix-up layer has 500 stubs.
func BenchmarkFanin(b *testing.B) {
	for _, n := range []int{500, 5000} {
		b.Run(fmt.Sprintf("stubs=%d", n), func(b *testing.B) {
			h := newHost(b, Options{})
			a, am := h.job(nil, nil, func(dir string) { h.files(dir, "d", 1000) })
			p, _ := h.job(a, am, func(dir string) { h.put(dir, "p", "p") })
			_, cm := h.job(a, am, func(dir string) { h.files(dir, "new", n) })
			f := &Fanin{Changes: ChangesOf(tree.Diff(am, cm))}
			for b.Loop() {
				v := h.prepare(p, f)
				b.StopTimer()
				require.NoError(b, h.d.Discard(b.Context(), v))
				b.StartTimer()
			}
		})
	}
}

// BenchmarkChanges reads an upper of 100 files above a tree of 100,000 entries.
func BenchmarkChanges(b *testing.B) {
	h := newHost(b, Options{})
	base := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Mode: 0o755}}}
	for d := range 1000 {
		base.Entries = append(base.Entries, snapshot.Entry{Path: fmt.Sprintf("d%04d", d), Type: snapshot.TypeDir, Mode: 0o755})
		for f := range 100 {
			base.Entries = append(base.Entries, snapshot.Entry{Path: fmt.Sprintf("d%04d/f%02d", d, f), Type: snapshot.TypeFile, Size: 7, Source: "/nowhere"})
		}
	}
	v := h.prepare(nil, nil)
	h.files(v.Target, "d000", 100)
	require.NoError(b, h.d.Seal(b.Context(), v))
	for b.Loop() {
		_, err := h.d.Changes(b.Context(), &v.Layer, base)
		require.NoError(b, err)
	}
}

// BenchmarkCopy is Prepare of the copying driver.
func BenchmarkCopy(b *testing.B) {
	root := b.TempDir()
	d, err := NewCopy(filepath.Join(root, "s"), Options{Owners: true})
	require.NoError(b, err)
	v, err := d.Prepare(b.Context(), Spec{ID: newID(b), Target: filepath.Join(root, "t")})
	require.NoError(b, err)
	for i := range 1000 {
		p := filepath.Join(v.Target, fmt.Sprint(i/100), fmt.Sprint(i))
		require.NoError(b, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(b, os.WriteFile(p, []byte("content"), 0o644))
	}
	require.NoError(b, d.Seal(b.Context(), v))
	for b.Loop() {
		w, err := d.Prepare(b.Context(), Spec{ID: newID(b), Base: &v.Layer, Target: filepath.Join(root, "t")})
		require.NoError(b, err)
		b.StopTimer()
		require.NoError(b, d.Discard(b.Context(), w))
		b.StartTimer()
	}
}
