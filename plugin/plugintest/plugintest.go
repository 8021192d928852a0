// Package plugintest is the suite that every adapter that runs scripts passes. It
// holds what plugin.Adapter promises; what is special to one adapter is tested
// beside it.
package plugintest

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// Place is where a test's job runs: an empty directory that the job may write to,
// and the path at which it sees it.
type Place struct{ View, Path string }

// Fixture is an adapter under test.
type Fixture struct {
	Adapter plugin.Adapter
	// Place makes a view for one job.
	Place func(t *testing.T) Place
}

// Run runs the suite. Each test gets an adapter of its own from open.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		f    func(*testing.T, *job)
	}{
		{"exit codes", exitCodes},
		{"output in order", outputInOrder},
		{"commands are echoed", echo},
		{"one shell for before and script", oneShell},
		{"stdin is empty", stdinIsEmpty},
		{"long and odd scripts", oddScripts},
		{"environment", environment},
		{"after_script", afterScript},
		{"after_script has a limit", afterLimit},
		{"files land in the view", filesLand},
		{"home and tmp", homeAndTmp},
		{"timeout", timeout},
		{"cancel with grace", cancelGrace},
		{"cancel before the start", cancelBefore},
		{"stubborn processes", stubborn},
		{"daemons do not outlive the job", daemons},
		{"background output does not block", background},
		{"a log that fails", failingLog},
		{"many at once", manyAtOnce},
		{"kill of the unknown", killUnknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := open(t)
			p := f.Place(t)
			tc.f(t, &job{f: f, Job: plugin.Job{
				Attempt: NewID(t), Name: "test", View: p.View, Path: p.Path, Grace: 2 * time.Second,
			}})
		})
	}
}

// NewID draws an id.
func NewID(t testing.TB) snapshot.ID {
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	return id
}

// Log is a writer that may be read meanwhile.
type Log struct{ testenv.Buffer }

// Wait waits until the log holds s.
func (l *Log) Wait(t testing.TB, s string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(l.String(), s) },
		2*time.Minute, 5*time.Millisecond, "the log never said %q", s)
}
