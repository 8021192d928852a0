//go:build bench && linux

package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one measurement. Times are milliseconds; what does not apply is zero.
type sample struct {
	Wall  float64 `json:"ms"`                // until the result is on the disk; of a mount, until it can be used
	Sync  float64 `json:"sync_ms,omitempty"` // the part of it after the command had ended
	CPU   float64 `json:"cpu_ms,omitempty"`  // user and system, of the command and its children
	Bytes int64   `json:"bytes,omitempty"`   // stored or written
	Load  float64 `json:"load"`              // of the machine, over the last minute
}

// limit ends a command that hangs.
const limit = 10 * time.Minute

// measured runs a script on d and brings what it wrote to disk. Before the clock
// starts the file system is clean, so that nobody pays for what another wrote.
func measured(ctx context.Context, d *disk, script string, env []string) (sample, error) {
	return measure(ctx, d, script, env, true)
}

// measuredOnly is measured without bringing anything to disk: for what a job does.
func measuredOnly(ctx context.Context, d *disk, script string, env []string) (sample, error) {
	return measure(ctx, d, script, env, false)
}

func measure(ctx context.Context, d *disk, script string, env []string, synced bool) (sample, error) {
	if _, err := d.sync(); err != nil {
		return sample{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s := sample{Load: load()}
	start := time.Now()
	st, err := sh(ctx, script, env)
	if err != nil {
		return s, err
	}
	done := time.Since(start)
	if !synced {
		s.Wall, s.CPU = msOf(done), msOf(st.UserTime()+st.SystemTime())
		return s, nil
	}
	after, err := d.sync()
	s.Sync, s.Wall = msOf(after), msOf(done+after)
	s.CPU = msOf(st.UserTime() + st.SystemTime())
	s.Bytes = st.SysUsage().(*syscall.Rusage).Oublock * 512 // as written; stores replace it by what they grew
	return s, err
}

// sh runs a script with environment env, and fails if any part of it fails.
func sh(ctx context.Context, script string, env []string) (*os.ProcessState, error) {
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-uec", script)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", script, err, lastLines(out.String()))
	}
	return cmd.ProcessState, nil
}

func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// timed measures fn, which works in this process.
func timed(fn func()) sample {
	s := sample{Load: load()}
	cpu, start := cpuTime(), time.Now()
	fn()
	s.Wall = msOf(time.Since(start))
	s.CPU = msOf(cpuTime() - cpu)
	return s
}

func cpuTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic(err) // its arguments are constants
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// load is the machine's load average, or 0 where it can't be known.
func load() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	f, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return f
}

func msOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// quantile is the smallest value that at least q of all values do not exceed.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	n := int(q*float64(len(v)) + 0.999999)
	return v[min(max(n, 1), len(v))-1]
}

// median is the middle, and the mean of the two middle ones of an even number.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// must is sh for what prepares a measurement: without it there is none.
func must(t *testing.T, script string, env ...string) {
	t.Helper()
	if _, err := sh(context.WithoutCancel(t.Context()), script, env); err != nil {
		t.Fatal(err)
	}
}
