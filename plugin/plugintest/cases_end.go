package plugintest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
)

func timeout(t *testing.T, j *job) {
	j.Timeout = 300 * time.Millisecond
	begin := time.Now()
	res, _ := j.run(t, "sleep 600")
	require.Equal(t, plugin.StatusTimedOut, res.Status)
	require.NotEmpty(t, res.Reason)
	require.Less(t, time.Since(begin), 4*time.Minute)
}

func cancelGrace(t *testing.T, j *job) {
	res, log := j.cancel(t, "trap 'echo caught; exit 1' TERM", "echo ready", "while :; do sleep 0.05; done")
	require.Equal(t, plugin.StatusCanceled, res.Status)
	require.Contains(t, log, "\ncaught\n", "no time to clean up")
}

func cancelBefore(t *testing.T, j *job) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	j.Script = []string{"touch ran"}
	res, err := j.f.Adapter.Run(ctx, j.Job, &Log{})
	if err == nil {
		require.Equal(t, plugin.StatusCanceled, res.Status)
	}
	require.NoFileExists(t, filepath.Join(j.View, "ran"))
}

func stubborn(t *testing.T, j *job) {
	j.Grace = 300 * time.Millisecond
	begin := time.Now()
	res, _ := j.cancel(t, "trap '' TERM HUP INT", "(trap '' TERM; while :; do sleep 1; echo tick >> ticks; done) &",
		"echo ready", "while :; do sleep 1; done")
	require.Equal(t, plugin.StatusCanceled, res.Status)
	require.Less(t, time.Since(begin), 4*time.Minute)
	quiet(t, filepath.Join(j.View, "ticks"))
}

// quiet fails if a file still grows.
func quiet(t *testing.T, file string) {
	t.Helper()
	a, _ := os.ReadFile(file)
	time.Sleep(1300 * time.Millisecond)
	b, _ := os.ReadFile(file)
	require.Equal(t, len(a), len(b), "somebody still writes to %s", file)
}

func daemons(t *testing.T, j *job) {
	res, log := j.run(t,
		"(setsid bash -c '(while :; do echo tick >> ticks; sleep 0.1; done) & disown' >/dev/null 2>&1 &)",
		"nohup bash -c 'while :; do echo tick >> ticks; sleep 0.1; done' >/dev/null 2>&1 &",
		"(exec env -i PATH=\"$PATH\" setsid bash -c 'while :; do echo tick >> ticks; sleep 0.1; done' >/dev/null 2>&1 &)",
		"while ! test -s ticks; do sleep 0.02; done")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	quiet(t, filepath.Join(j.View, "ticks"))
}

func background(t *testing.T, j *job) {
	begin := time.Now()
	res, log := j.run(t, "sleep 300 &", "echo done")
	require.Equal(t, plugin.StatusSuccess, res.Status)
	require.Contains(t, log, "done")
	require.Less(t, time.Since(begin), 4*time.Minute, "waited for a process in the background")
}

// cancel runs a script and cancels it once it has said "ready".
func (j *job) cancel(t *testing.T, script ...string) (plugin.Result, string) {
	t.Helper()
	j.Script = script
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log Log
	done := make(chan plugin.Result)
	go func() {
		res, err := j.f.Adapter.Run(ctx, j.Job, &log)
		if err != nil {
			t.Errorf("Run: %v", err)
		}
		done <- res
	}()
	log.Wait(t, "\nready\n")
	cancel()
	select {
	case res := <-done:
		return res, log.String()
	case <-time.After(2 * time.Minute):
		t.Fatal("a canceled job does not end")
		panic("unreachable")
	}
}
