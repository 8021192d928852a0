package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot/view"
)

// BenchmarkImport is the way of a tree of small files from packs in memory to a
// view that shows it, on a store that has nothing.
func BenchmarkImport(b *testing.B) {
	const files = 30_000
	src := newBench(b, view.NameOverlay)
	src.run()
	r := rand.New(rand.NewPCG(1, 2))
	id := src.job(func(dir string) {
		for i := range files {
			d := fmt.Sprintf("%s/d%d", dir, i/100)
			if i%100 == 0 {
				require.NoError(b, os.MkdirAll(d, 0o755))
			}
			p := make([]byte, r.IntN(10_000))
			for j := range p {
				p[j] = "abcdefghijklmnop"[r.Uint32()&15]
			}
			require.NoError(b, os.WriteFile(fmt.Sprintf("%s/f%d", d, i), p, 0o644))
		}
	}).ID
	src.packed(id)
	far := newRemote(b)
	spec := far.upload(src, id)
	for _, driver := range []string{view.NameErofs, view.NameOverlay} {
		b.Run(driver, func(b *testing.B) {
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				dst := benchAt(b, filepath.Join(b.TempDir(), "store"), driver)
				b.StartTimer()
				cpu -= cpuTime(b)
				require.NoError(b, dst.Import(b.Context(), spec, far.open, nil))
				p := dst.spec(id)
				_, err := dst.Prepare(b.Context(), p)
				require.NoError(b, err)
				cpu += cpuTime(b)
				b.StopTimer()
				require.NoError(b, dst.Discard(b.Context(), p.ID))
				dst.close()
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms")
		})
	}
}

func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
