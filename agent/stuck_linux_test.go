package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestHeldView: who holds a file of a job's view open, which two jobs can arrange
// between them, keeps neither the slot from its next job nor the view for ever.
func TestHeldView(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Root, testenv.Overlay)
	f := newFake(t)
	h := newHost(t, f, "h")
	h.driver = view.NameOverlay
	h.edit = func(o *Options) { o.Slots, o.BuildsDir = 1, filepath.Join(h.dir, "run", "builds") }
	h.wrap = func(plugin.Adapter) plugin.Adapter {
		a, err := exec.New(exec.Options{RootMode: true, RunAs: "root", StateDir: filepath.Join(h.dir, "exec"), RunDir: filepath.Join(h.dir, "run")})
		require.NoError(t, err)
		return a
	}
	h.start()
	at := f.give("h", job("bad", "touch file", "until [ -e go ]; do sleep 0.02; done", "exit 1"))
	var v string
	require.Eventually(t, func() bool {
		m, err := filepath.Glob(filepath.Join(h.dir, "store", "slots", "*", "*", "file"))
		if len(m) == 1 {
			v = filepath.Dir(m[0])
		}
		return err == nil && v != ""
	}, time.Minute, 5*time.Millisecond)
	held, err := os.OpenFile(filepath.Join(v, "file"), os.O_WRONLY, 0)
	require.NoError(t, err)
	defer held.Close() //nolint:errcheck // closed below
	require.NoError(t, os.WriteFile(filepath.Join(v, "go"), nil, 0o644))
	require.Equal(t, api.StatusFailed, f.finished(at).Status)

	f.green(f.give("h", job("next", "test ! -e file; echo x > x")))
	require.FileExists(t, filepath.Join(v, "file"))
	require.NoError(t, held.Close())
	require.Eventually(t, func() bool {
		_, err := os.Lstat(v)
		return os.IsNotExist(err)
	}, time.Minute, 20*time.Millisecond)
}
