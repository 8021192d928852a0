//go:build bench && linux

package bench

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sample is one measurement of one way. What does not apply is zero.
type sample struct {
	wall  time.Duration
	cpu   time.Duration // user and system, of this process and its children
	sync  time.Duration // a sync of what was written, asked for afterwards
	read  time.Duration // reading all of the tree afterwards, which also checks it
	bytes int64         // stored or moved
	load  float64       // of the machine, over the last minute
}

// timed measures fn. The file system is clean when it begins, for everybody, so
// that nobody pays for what somebody else wrote.
func timed(t *testing.T, dir string, fn func()) sample {
	t.Helper()
	syncAll(t, dir)
	runtime.GC()
	s := sample{load: load(t)}
	cpu, start := cpuTime(t), time.Now()
	fn()
	s.wall = time.Since(start)
	s.cpu = cpuTime(t) - cpu
	return s
}

// profiled is timed, with a CPU profile if one is wanted.
func (s settings) profiled(t *testing.T, name string, fn func()) sample {
	t.Helper()
	if s.profile == "" {
		return timed(t, s.dir, fn)
	}
	f, err := os.Create(filepath.Join(s.profile, name+".pprof"))
	require.NoError(t, err)
	defer f.Close()
	return timed(t, s.dir, func() {
		require.NoError(t, pprof.StartCPUProfile(f))
		fn()
		pprof.StopCPUProfile()
	})
}

// syncAll brings the file system of dir to rest and says how long it took.
func syncAll(t *testing.T, dir string) time.Duration {
	t.Helper()
	d, err := os.Open(dir)
	require.NoError(t, err)
	defer d.Close()
	start := time.Now()
	require.NoError(t, unix.Syncfs(int(d.Fd())))
	return time.Since(start)
}

// syncFile is what a durable copy of an archive costs beyond writing it.
func syncFile(t *testing.T, path string) time.Duration {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	start := time.Now()
	require.NoError(t, f.Sync())
	return time.Since(start)
}

func cpuTime(t *testing.T) time.Duration {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		require.NoError(t, unix.Getrusage(who, &r))
		sum += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return sum
}

func load(t *testing.T) float64 {
	b, err := os.ReadFile("/proc/loadavg")
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(b), " ")
	f, err := strconv.ParseFloat(first, 64)
	require.NoError(t, err)
	return f
}

// shell runs a script with $1, $2, … and fails the test if any part of it fails.
func shell(t *testing.T, script string, args ...string) {
	t.Helper()
	shellIn(t.Context(), t, script, args...)
}

// shellAfter is shell for clean-up, when the test's context has ended.
func shellAfter(t *testing.T, script string, args ...string) {
	t.Helper()
	shellIn(context.WithoutCancel(t.Context()), t, script, args...)
}

func shellIn(ctx context.Context, t *testing.T, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-o", "pipefail", "-ec", script, "bash"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Run(), "%s %q: %s", script, args, &out)
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	require.NoError(t, err)
	return st.Size()
}
