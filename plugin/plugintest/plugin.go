package plugintest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire"
)

// PluginFixture is a plugin under test: a plugin.Plugin in a process of its own.
type PluginFixture struct {
	// Command starts it. Args[0] is its name; Sockets and Log are the suite's.
	Command wire.Command
	// Driver makes what is around it, for one test.
	Driver func(t *testing.T) Driver
	// Jobs is how many jobs there are where a test wants many. Default 20.
	Jobs int
	// Slow multiplies how long the suite waits for things. Default 1.
	Slow int
}

// Driver plays what is around a plugin: the system that has jobs, and the runners that
// run them. It lives as long as a test; the plugin is killed and started anew meanwhile.
type Driver interface {
	// Config is Settings.Config. It is asked each time a process is started. views is where
	// workspaces will be: that of slot 2, say, in views/2/<Workspace.Name>.
	Config(views string) json.RawMessage
	// Submit puts a job into the system. It returns the payload that the agent is to
	// grant, or nil if the plugin brings the job itself, as Offer.Job. Payload, or Offer.Job, holds
	// the job's name and its secret as they are.
	Submit(t testing.TB, j TestJob) []byte
	// Release lets a job that Waits go on.
	Release(t testing.TB, name string)
	// Look says what was seen of a job until now.
	Look(t testing.TB, name string) Seen
}

// TestJob is a job of the suite.
type TestJob struct {
	Name string // unique, [a-z0-9]
	// Waits: it says that it began and goes on when it is released, or stopped.
	Waits bool
	// Exit is its exit code.
	Exit int
	// Secret is in the payload and must not be seen anywhere.
	Secret string
}

// Seen is what runner and system saw of a job.
type Seen struct {
	Began int // how often its script began to run
	// Running: its script runs.
	Running bool
	// Dir is where it ran, as the host sees it; "" if the driver can't say.
	Dir string
	// Ended are the ends that the system was told of, in order.
	Ended []plugin.Status
	// Log is what the system has as the job's log.
	Log string
}

// RunPlugin runs the suite for plugins. It plays the agent: it starts the plugin as an agent does, grants
// jobs, and looks at what becomes of them, also when the plugin is killed at any moment.
// plugin/example is a plugin that passes it.
func RunPlugin(t *testing.T, f PluginFixture) {
	f.Slow = max(f.Slow, 1)
	if f.Jobs < 1 {
		f.Jobs = 20
	}
	tests := []struct {
		name string
		f    func(*testing.T, *stage)
	}{
		{"describes itself", describes},
		{"serves and ends", servesAndEnds},
		{"a job that succeeds is sealed", succeeds},
		{"a job that fails is discarded", fails},
		{"a workspace that can't be had", noWorkspace},
		{"a job without a workspace", offWorkspace},
		{"a seal that makes the job fail", sealFails},
		{"an agent that is not available for a while", unavailable},
		{"one job per slot", oneJobPerSlot},
		{"many jobs", manyJobs},
		{"a lost attempt", lostAttempt},
		{"lost, repeated and unknown", lostTwice},
		{"ending leaves a job alone", endsBesideJob},
		{"attempts of an earlier process that it does not know", heldUnknown},
		{"killed at every call", killedAtCalls},
		{"killed while a job runs", killedWhileRunning},
		{"killed while it tells of a loss", killedWhileLost},
		{"killed at random", killedAtRandom},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := newStage(t, f)
			tc.f(t, s)
			s.close()
		})
	}
}

// patience is how long the suite waits for what has to come.
const patience = time.Minute
