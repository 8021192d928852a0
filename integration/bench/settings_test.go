//go:build bench && linux

package bench

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// settings come from the environment, so that `make bench` needs no arguments.
type settings struct {
	quick  bool          // BENCH=quick: small trees, one round, about three minutes
	scale  float64       // BENCH_SCALE: of sizes, default 1, quick 0.15
	rounds int           // BENCH_ROUNDS: sessions of each way, default 3, quick 1
	time   time.Duration // BENCH_MINUTES: no further round of sessions begins after it, default 25
	hands  int           // BENCH_HANDS: hand-overs of each kind, default 50, quick 20
	fs     []string      // BENCH_FS: default "ext4 xfs"
	trees  []string      // BENCH_TREES: default "go node game"
	groups []string      // BENCH_GROUPS: default "session hand native gitlab"
	only   []string      // BENCH_ONLY: ways of sessions, by the names of their programs; default all
	driver string        // BENCH_DRIVER: of Roost's views, default the best that works
	dir    string        // BENCH_DIR: where to work, default a temporary directory; 20 GB
	trunk  string        // BENCH_TRUNK: where trees are kept for later runs, default in dir and not kept
	doc    string        // BENCH_DOC: document whose table is replaced, "" for none
	resume string        // BENCH_RESUME: samples of a run that was broken off, as BENCH_JSON wrote them
	json   string        // BENCH_JSON: file for all samples, "" for none
	md     string        // BENCH_MD: file for the table alone, "" for none
}

func readSettings(t *testing.T) settings {
	t.Helper()
	s := settings{
		quick: os.Getenv("BENCH") == "quick", scale: 1, rounds: 3, hands: 50,
		fs: list("BENCH_FS", "ext4 xfs"), trees: list("BENCH_TREES", "go node game"),
		groups: list("BENCH_GROUPS", "session hand native gitlab"), only: list("BENCH_ONLY", ""),
		driver: os.Getenv("BENCH_DRIVER"), dir: os.Getenv("BENCH_DIR"),
		doc: os.Getenv("BENCH_DOC"), json: os.Getenv("BENCH_JSON"), md: os.Getenv("BENCH_MD"),
	}
	if s.quick {
		s.scale, s.rounds, s.hands = 0.15, 1, 20
	}
	var err error
	if v := os.Getenv("BENCH_SCALE"); v != "" {
		s.scale, err = strconv.ParseFloat(v, 64)
		require.NoError(t, err, "BENCH_SCALE")
		require.Greater(t, s.scale, 0.0, "BENCH_SCALE")
	}
	s.rounds = number(t, "BENCH_ROUNDS", s.rounds)
	s.time = time.Duration(number(t, "BENCH_MINUTES", 25)) * time.Minute
	s.hands = number(t, "BENCH_HANDS", s.hands)
	for _, f := range s.fs {
		require.Contains(t, []string{"ext4", "xfs"}, f, "BENCH_FS")
	}
	s.resume = os.Getenv("BENCH_RESUME")
	for _, file := range []*string{&s.resume, &s.doc, &s.json, &s.md} {
		if *file != "" {
			*file, err = filepath.Abs(*file)
			require.NoError(t, err)
		}
	}
	if s.doc != "" { // said now, not when all is measured
		require.FileExists(t, s.doc, "BENCH_DOC")
	}
	if s.dir == "" {
		s.dir = os.TempDir()
	}
	require.NoError(t, os.MkdirAll(s.dir, 0o755))
	s.dir, err = os.MkdirTemp(s.dir, "roost-bench-") //nolint:usetesting // on the disk that the caller wants measured
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	s.dir, err = filepath.EvalSymlinks(s.dir)
	require.NoError(t, err)
	if s.trunk = os.Getenv("BENCH_TRUNK"); s.trunk == "" {
		s.trunk = s.dir
	}
	require.NoError(t, os.MkdirAll(s.trunk, 0o755))
	s.trunk, err = filepath.Abs(s.trunk)
	require.NoError(t, err)
	return s
}

func list(name, without string) []string {
	v, ok := os.LookupEnv(name)
	if !ok || v == "" {
		v = without
	}
	return strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
}

func number(t *testing.T, name string, without int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return without
	}
	n, err := strconv.Atoi(v)
	require.NoError(t, err, name)
	require.Positive(t, n, name)
	return n
}

// wants says whether a group was asked for.
func (s settings) wants(group string) bool { return slices.Contains(s.groups, group) }
