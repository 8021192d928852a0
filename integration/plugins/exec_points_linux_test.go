//go:build failpoints

package plugins

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/plugin/plugintest"
	"github.com/roost-ci/roost/plugin/wire"
)

// TestExecKilledAtPoints kills the plugin at each of its named steps. The job runs once, and
// succeeds in the next process.
func TestExecKilledAtPoints(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	for _, point := range []string{"exec.recorded", "exec.launched", "exec.ended"} {
		t.Run(point, func(t *testing.T) {
			b := &bench{dir: t.TempDir()}
			state := filepath.Join(b.dir, "exec")
			require.NoError(t, os.Mkdir(state, 0o700))
			p := b.place(t)
			job := plugin.Job{Attempt: plugintest.NewID(t), View: p.View, Path: p.Path, Script: []string{"echo x >> began", "echo said"}}
			var log plugintest.Log
			first := startExec(t, state, fail.Env+"="+point)
			_, err := first.Run(t.Context(), job, &log)
			require.ErrorIs(t, err, plugin.ErrUnavailable, "it was not killed")
			job.Have = int64(len(log.String()))
			next := startExec(t, state)
			res, err := next.Run(t.Context(), job, &log)
			require.NoError(t, err)
			require.Equal(t, plugin.StatusSuccess, res.Status, res.Reason)
			require.NoError(t, next.Kill(t.Context(), job.Attempt))
			began, err := os.ReadFile(filepath.Join(p.View, "began"))
			require.NoError(t, err)
			require.Equal(t, "x\n", string(began))
			require.Equal(t, "said\n", own(log.String()))
			b.empty(t)
		})
	}
}

// startExec starts one process of the plugin, as this user.
func startExec(t *testing.T, dir string, env ...string) plugin.Runner {
	p, err := wire.Start(t.Context(), wire.Command{
		Path: "/proc/self/exe", Args: []string{"roost", "be-exec"}, Dir: dir, Env: append(env, "PATH="+os.Getenv("PATH")),
	})
	require.NoError(t, err)
	conf, err := json.Marshal(exec.Config{})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var served atomic.Bool
	go func() {
		p.Plugin.Serve(ctx, plugin.Settings{Dir: dir, Config: conf}, nil) //nolint:errcheck // it is killed
		served.Store(true)
	}()
	t.Cleanup(func() {
		stop()
		require.Eventually(t, served.Load, time.Minute, 5*time.Millisecond)
		p.Kill()
	})
	return p.Plugin.(plugin.Runner)
}
