package runner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// Section 1, call 2: a token with an end is replaced at three quarters of its life.
func TestRotation(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	l.stop()
	token := l.AddRunner(gitlabtest.RunnerDef{TokenExpires: time.Now().Add(2 * time.Second)})
	old := token.Token()
	l.entry.Token = old
	runner.Start(t, runner.Config{Entries: []runner.Entry{l.entry}, Scale: 100})
	require.True(t, eventually(time.Minute, func() bool { return token.Token() != old }))
	l.one(t, job{}, gitlabtest.Success, "GIT_STRATEGY", "none")
}

// Call 4: only with its flag, and any answer but 200 means plain polling.
func TestRouter(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{entry: func(e *runner.Entry) { e.FeatureFlags = map[string]bool{"FF_USE_JOB_ROUTER": true} }})
	l.one(t, job{}, gitlabtest.Success, "GIT_STRATEGY", "none")
	calls := l.Calls("GET /api/v4/runners/router/discovery")
	require.Len(t, calls, 1)
	require.Equal(t, 501, calls[0].Status)
}
