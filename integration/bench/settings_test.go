//go:build bench && linux

package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// settings come from the environment, so that `make bench` needs no arguments.
type settings struct {
	runs  int      // ROOST_BENCH_RUNS: rounds, default 5
	scale float64  // ROOST_BENCH_SCALE: of the numbers of files, default 1
	trees []string // ROOST_BENCH_TREES: names of trees, default all
	dir   string   // ROOST_BENCH_DIR: where to work, default a temporary directory
	fs    string   // ROOST_BENCH_FS: ext4 (default) or xfs in a loop file, or none: dir as it is
	out   string   // ROOST_BENCH_OUT: also write the tables to this file
	// ROOST_BENCH_PROFILE: CPU profiles of our ways go to this directory; the others
	// are left out
	profile string
}

func readSettings(t *testing.T) settings {
	t.Helper()
	s := settings{
		runs: 5, scale: 1, dir: os.Getenv("ROOST_BENCH_DIR"), fs: os.Getenv("ROOST_BENCH_FS"),
		out: os.Getenv("ROOST_BENCH_OUT"), profile: os.Getenv("ROOST_BENCH_PROFILE"),
		trees: strings.FieldsFunc(os.Getenv("ROOST_BENCH_TREES"), func(r rune) bool { return r == ',' || r == ' ' }),
	}
	var err error
	if v := os.Getenv("ROOST_BENCH_RUNS"); v != "" {
		s.runs, err = strconv.Atoi(v)
		require.NoError(t, err, "ROOST_BENCH_RUNS")
		require.Positive(t, s.runs, "ROOST_BENCH_RUNS")
	}
	if v := os.Getenv("ROOST_BENCH_SCALE"); v != "" {
		s.scale, err = strconv.ParseFloat(v, 64)
		require.NoError(t, err, "ROOST_BENCH_SCALE")
		require.Greater(t, s.scale, 0.0, "ROOST_BENCH_SCALE")
	}
	if s.dir == "" {
		s.dir = t.TempDir()
	} else {
		require.NoError(t, os.MkdirAll(s.dir, 0o755))
		s.dir, err = os.MkdirTemp(s.dir, "roost-bench-") //nolint:usetesting // on the disk that the caller wants measured
		require.NoError(t, err)
		t.Cleanup(func() { os.RemoveAll(s.dir) })
	}
	s.dir, err = filepath.EvalSymlinks(s.dir)
	require.NoError(t, err)
	if s.fs == "" {
		s.fs = "ext4"
	}
	require.Contains(t, []string{"ext4", "xfs", "none"}, s.fs, "ROOST_BENCH_FS")
	if s.profile != "" {
		require.NoError(t, os.MkdirAll(s.profile, 0o755))
	}
	return s
}

// disk says what the trees lay on.
func (s settings) disk() string {
	if s.fs == "none" {
		return "on " + output("stat", "-f", "-c", "%T", s.dir)
	}
	return "each tree on a fresh " + s.fs + " in a loop file"
}
