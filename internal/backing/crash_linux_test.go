//go:build failpoints

package backing

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
)

// points are all the steps of this package.
var points = []string{"backing.reserved", "backing.formatted", "durable.moved", "backing.mounted", "backing.extended", "backing.grown"}

// TestCrashChild makes a backing and has it grow.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("ROOST_CRASH_DIR")
	if dir == "" {
		t.Skip("runs in TestCrash")
	}
	o := Options{Dir: dir, Size: MinSize, Sparse: true}
	ensure(t, o)
	o.Size += 64 << 20
	ensure(t, o)
}

func TestAllPoints(t *testing.T) {
	for p := range testenv.FailPoints(t, "*.go") {
		require.Contains(t, points, p)
	}
}

// TestCrash kills the making and the growing at every step. The next start ends
// with one whole file system of the right size.
func TestCrash(t *testing.T) {
	for _, p := range points {
		t.Run(p, func(t *testing.T) {
			o := small(t)
			cmd := exec.Command("/proc/self/exe", "-test.run", "^TestCrashChild$")
			cmd.Env = append(os.Environ(), "ROOST_CRASH_DIR="+o.Dir, fail.Env+"="+p)
			out, err := cmd.CombinedOutput()
			var ee *exec.ExitError
			require.True(t, errors.As(err, &ee), "never reached: %s", out)
			require.Equal(t, syscall.SIGKILL, ee.Sys().(syscall.WaitStatus).Signal(), "%s", out)
			st, err := Ensure(context.Background(), o)
			require.NoError(t, err)
			put(t, o.Dir, "f", "works")
			require.GreaterOrEqual(t, room(t, o.Dir), st.Size-st.Size/3)
			names, err := filepath.Glob(filepath.Join(filepath.Dir(o.Dir), "*"))
			require.NoError(t, err)
			require.ElementsMatch(t, []string{o.Dir, ImageOf(o.Dir)}, names, "left behind")
		})
	}
}
