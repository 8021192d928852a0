package store

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// These take the times that a job waits for: attach is Prepare, seal is Seal. The
// first job of each makes the tree and is not counted.

func makeFiles(b *testing.B, dir string, from, n int) {
	b.Helper()
	for i := from; i < from+n; i++ {
		d := fmt.Sprintf("%s/d%d", dir, i/100)
		if i%100 == 0 || i == from {
			require.NoError(b, os.MkdirAll(d, 0o755))
		}
		require.NoError(b, os.WriteFile(fmt.Sprintf("%s/f%d", d, i), []byte("x"), 0o644))
	}
}

type times struct{ attach, seal []time.Duration }

func (t *times) job(b *bench, fn func(dir string), parents ...snapshot.ID) snapshot.ID {
	p := b.spec(parents...)
	start := time.Now()
	a, err := b.Prepare(ctxOf(b.t), p)
	t.attach = append(t.attach, time.Since(start))
	require.NoError(b.t, err)
	if fn != nil {
		fn(a.Target)
	}
	start = time.Now()
	_, err = b.Seal(ctxOf(b.t), p.ID, nil)
	t.seal = append(t.seal, time.Since(start))
	require.NoError(b.t, err)
	return p.ID
}

// The machine may be busy with other things, so the middle one counts.
func report(b *testing.B, name string, d []time.Duration) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-ms")
}

// A chain of jobs that write three files each, on trees of various sizes.
func BenchmarkSmallJob(b *testing.B) {
	for _, files := range []int{0, 10_000, 100_000} {
		b.Run(fmt.Sprintf("on-%d-files", files), func(b *testing.B) {
			s := newBench(b, view.NameOverlay)
			id := s.job(func(dir string) { makeFiles(b, dir, 0, files) }).ID
			_, err := s.Tree(b.Context(), id)
			require.NoError(b, err)
			var t times
			for b.Loop() {
				next := t.job(s, func(dir string) { makeFiles(b, dir, 1<<20, 3) }, id)
				_, err := s.Tree(b.Context(), next) // jobs take longer than that
				require.NoError(b, err)
			}
			report(b, "attach", t.attach)
			report(b, "seal", t.seal)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// The next job comes the moment that the one before is sealed.
func BenchmarkNextJobAtOnce(b *testing.B) {
	for _, files := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("after-%d-files", files), func(b *testing.B) {
			s := newBench(b, view.NameOverlay)
			var first, next times
			for b.Loop() {
				id := first.job(s, func(dir string) { makeFiles(b, dir, 0, files) })
				next.job(s, nil, id)
			}
			report(b, "seal", first.seal)
			report(b, "attach", next.attach)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// Two parents changed 150 files each of a large tree.
func BenchmarkFanin(b *testing.B) {
	for _, files := range []int{1000, 30_000} {
		b.Run(fmt.Sprintf("on-%d-files", files), func(b *testing.B) {
			s := newBench(b, view.NameOverlay)
			base := s.job(func(dir string) { makeFiles(b, dir, 0, files) }).ID
			left := s.job(func(dir string) { makeFiles(b, dir, 0, 150) }, base).ID
			right := s.job(func(dir string) { makeFiles(b, dir, 500, 150) }, base).ID
			for _, id := range []snapshot.ID{base, left, right} {
				_, err := s.Tree(b.Context(), id)
				require.NoError(b, err)
			}
			var t times
			for b.Loop() {
				t.job(s, nil, left, right)
			}
			report(b, "attach", t.attach)
			report(b, "seal", t.seal)
			b.ReportMetric(0, "ns/op")
		})
	}
}
