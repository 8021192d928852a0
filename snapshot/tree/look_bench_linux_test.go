package tree_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot/tree"
)

// BenchmarkLook looks at what an overlay leaves of a job that wrote to 1,000 files in
// a directory each. CPU time is what to read.
func BenchmarkLook(b *testing.B) {
	dir := b.TempDir()
	origin := make([]byte, 29)
	for i := range 1000 {
		d := filepath.Join(dir, fmt.Sprintf("part-%02d/unit-%03d", i/100, i))
		require.NoError(b, os.MkdirAll(d, 0o755))
		f := filepath.Join(d, fmt.Sprintf("file-%d", i*100))
		require.NoError(b, os.WriteFile(f, []byte("round 1\n"), 0o644))
		if os.Geteuid() == 0 {
			require.NoError(b, unix.Setxattr(d, "trusted.overlay.origin", origin, 0))
			require.NoError(b, unix.Setxattr(d, "trusted.overlay.impure", []byte("y"), 0))
			require.NoError(b, unix.Setxattr(f, "trusted.overlay.origin", origin, 0))
		}
	}
	var before, after unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &before))
	rounds := 0
	for b.Loop() {
		rounds++
		n, err := tree.Look(b.Context(), dir)
		require.NoError(b, err)
		require.EqualValues(b, 8000, n)
	}
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &after))
	cpu := func(r unix.Rusage) float64 { return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e3 }
	b.ReportMetric((cpu(after)-cpu(before))/float64(rounds)/1000, "cpu-µs/file")
}
