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
	runs    int      // ROOST_BENCH_RUNS: rounds, default 5
	scale   float64  // ROOST_BENCH_SCALE: of the numbers of files, default 1
	trees   []string // ROOST_BENCH_TREES: names of trees, default all
	dir     string   // ROOST_BENCH_DIR: where to work, default a temporary directory
	out     string   // ROOST_BENCH_OUT: also write the tables to this file
	profile string   // ROOST_BENCH_PROFILE: CPU profiles of our ways go to this directory
}

func readSettings(t *testing.T) settings {
	t.Helper()
	s := settings{
		runs: 5, scale: 1, dir: os.Getenv("ROOST_BENCH_DIR"),
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
		s.dir, err = os.MkdirTemp(s.dir, "roost-bench-")
		require.NoError(t, err)
		t.Cleanup(func() { os.RemoveAll(s.dir) })
	}
	s.dir, err = filepath.EvalSymlinks(s.dir)
	require.NoError(t, err)
	if s.profile != "" {
		require.NoError(t, os.MkdirAll(s.profile, 0o755))
	}
	return s
}
