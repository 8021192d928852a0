package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// BenchmarkFetchLine is what a job waits for on a host that has nothing of a line of
// eight snapshots, of which each replaced a large file and 200 small ones: until its view
// is there. As layers, each synced, and as what the last one shows.
func BenchmarkFetchLine(b *testing.B) {
	src := newBench(b, view.NameErofs)
	src.run()
	var line []ImportSpec
	far := newRemote(b)
	var on []snapshot.ID
	for n := range 8 {
		id := src.job(func(dir string) { lineJob(b, dir, n) }, on...).ID
		src.packed(id)
		line = append(line, far.upload(src, id))
		on = []snapshot.ID{id}
	}
	for _, way := range []string{"layers", "chain"} {
		b.Run(way, func(b *testing.B) {
			var cpu time.Duration
			var m view.Meter
			for b.Loop() {
				b.StopTimer()
				dst := benchAt(b, filepath.Join(b.TempDir(), "store"), view.NameErofs)
				b.StartTimer()
				cpu -= cpuTime(b)
				fetchLine(b, dst, line, far, &m, way == "chain")
				p := dst.spec(on...)
				_, err := dst.Prepare(b.Context(), p)
				require.NoError(b, err)
				cpu += cpuTime(b)
				b.StopTimer()
				require.NoError(b, dst.Discard(b.Context(), p.ID))
				dst.close()
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms")
			b.ReportMetric(float64(m.Written())/float64(b.N)/1e6, "MB-written")
		})
	}
}

func fetchLine(b *testing.B, dst *bench, line []ImportSpec, far *remote, m *view.Meter, chain bool) {
	line = append([]ImportSpec(nil), line...)
	if !chain {
		for _, spec := range line {
			require.NoError(b, dst.Import(b.Context(), spec, far.open, m))
		}
		return
	}
	for i := range line {
		line[i].Later = true
	}
	require.NoError(b, dst.ImportChain(b.Context(), line, far.open, m))
}

// lineJob is the n-th job of the line.
func lineJob(b *testing.B, dir string, n int) {
	large := chaff(uint64(n+1), 16<<20)
	require.NoError(b, os.WriteFile(fmt.Sprintf("%s/large%d", dir, n%2), large, 0o644))
	step := 1
	if n > 0 {
		step = 100
	}
	for i := n; i < 20_000; i += step {
		d := fmt.Sprintf("%s/d%d", dir, i/100)
		require.NoError(b, os.MkdirAll(d, 0o755))
		text := bytes.Repeat(fmt.Appendf(nil, "line %d of %d\n", i*7, n), 1+i%600)
		require.NoError(b, os.WriteFile(fmt.Sprintf("%s/f%d", d, i), text, 0o644))
	}
}
