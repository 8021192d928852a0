package plugin

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// Contract is the version of the contract between agent and plugin. Either side
// refuses another one than its own.
const Contract = 1

// Plugin is an adapter in a process of its own: it has runners that ask for jobs,
// such as GitLab's, and no workspace of its own. The agent calls Plugin, the plugin
// calls Agent. Mounts, leases and sealing are the agent's and survive the plugin:
// one that dies is started anew, asks Agent.Held what it still has, and goes on.
type Plugin interface {
	// Describe says who the plugin is. It is the first call.
	Describe(ctx context.Context) (Description, error)

	// Serve serves the runners until ctx ends and returns nil then; an error says
	// that it can't serve. It is called once in the life of a process. In-flight calls of
	// runners are given a moment to end; no job is ended by it.
	Serve(ctx context.Context, s Settings, a Agent) error

	// Lost says that an attempt is not this host's any more: the plugin lets its
	// runner know, sends nothing more of it anywhere, and calls Agent.Discard when the
	// runner has stopped. Idempotent.
	Lost(ctx context.Context, attempt snapshot.ID, why string) error
}

// Runner is a plugin that runs the jobs of Roost's own pipelines: it has no runners
// that ask, the agent gives it each job together with a workspace that is ready, seals
// and discards by itself, and keeps the log. Such a plugin calls nothing of Agent.
//
// A job should survive the plugin, as a runner's job does. When a process of the plugin
// has died under Run, the agent starts another one and calls Run again for the same
// attempt, with Job.Have:
//   - one that still runs, or that ended meanwhile, is joined: its output goes on
//     at byte Job.Have, its result is the one that it has;
//   - one of which nothing has run is begun;
//   - of one that ran and can't be joined nothing is left running, and its result is
//     StatusSystemFailure. No script is begun twice.
//
// What a Write to log returned for is the agent's; what it did not return for, or
// returned ErrUnavailable, has to be there for the next Run. A result is kept until Kill, which the agent calls when
// it has it. A job never outlives its agent.
type Runner interface {
	Plugin

	// Run is Adapter's. It waits for Serve. The job is stopped by the end of ctx alone,
	// not by that of Serve.
	Run(ctx context.Context, job Job, log io.Writer) (Result, error)

	// Kill is Adapter's. It waits for Serve.
	Kill(ctx context.Context, attempt snapshot.ID) error
}

// Description is who a plugin is.
type Description struct {
	Name     string `json:"name"` // the word in configuration: "gitlab"
	Version  string `json:"version"`
	Contract int    `json:"contract"`
	// Runs says that it is a Runner. wire.Main knows by itself.
	Runs bool `json:"runs,omitempty"`
}

// Settings are what a plugin is told when it begins.
type Settings struct {
	Host string `json:"host"` // the agent's name
	// Slots are the numbers of the slots that it may use, from 1.
	Slots []int `json:"slots"`
	// Dir is the plugin's own directory, 0700. It survives restarts.
	Dir string `json:"dir"`
	// Config is what the configuration file says for this plugin, as JSON.
	Config json.RawMessage `json:"config,omitempty"`
}

// Agent is what a plugin may ask of its agent. Every call may be repeated: what was
// done is not done again, and answered as before.
type Agent interface {
	// Claim waits until there is a job for a slot and gives it. It returns nil and no
	// error when ctx ends before; a job that is on its way then is given to somebody
	// else. When it returns a Grant, the job is this host's: it must end in Seal or in Discard.
	Claim(ctx context.Context, o Offer) (*Grant, error)

	// Attach makes the job's workspace ready. progress, if not nil, is called now and
	// then with one line for people while it lasts. An error means that the job needs
	// its workspace and can't have it: nothing of it may run, it is to be ended as a
	// system failure and discarded.
	Attach(ctx context.Context, attempt snapshot.ID, progress func(line string)) (*Workspace, error)

	// Seal ends a job that succeeded: its processes are made to end, its workspace is
	// kept for the jobs after it, and the coordinator knows when Seal returns. What goes wrong
	// here is in Sealed and leaves the job as green as it is, but for Sealed.Failed.
	Seal(ctx context.Context, s SealRequest) (*Sealed, error)

	// Discard ends a job that did not succeed, or never ran. Its workspace goes.
	Discard(ctx context.Context, d DiscardRequest) error

	// Held lists the attempts that were granted to this plugin, also to an earlier
	// process of it or of the agent, and that are neither sealed nor discarded.
	Held(ctx context.Context) ([]Held, error)
}

// Offer is a slot whose runner wants a job.
type Offer struct {
	Slot int `json:"slot"`
	// Runner is what the runner says of itself, for the coordinator: what it can do
	// decides which jobs it may be given. Opaque to the agent.
	Runner json.RawMessage `json:"runner,omitempty"`
	// Job, if set, is a job that the runner has already, as its system gave it: it gets a workspace
	// here and now, and nobody decides where it runs.
	Job []byte `json:"job,omitempty"`
}

// Grant is a job given to this host.
type Grant struct {
	Attempt snapshot.ID `json:"attempt"`
	Slot    int         `json:"slot"`
	// Payload is the job as its system gave it. It holds secrets.
	Payload []byte `json:"payload"`
	// Age is how long ago its system gave it: the job's clock runs since then.
	Age time.Duration `json:"age"`
	// Log is what stands in the job's log already, written by the coordinator.
	Log []byte `json:"log,omitempty"`
}

// States of a workspace as a plugin sees it. There is nothing between them.
const (
	StateFull  = "FULL"  // all that the job's parents left
	StateFresh = "FRESH" // empty: as on a stock runner
	StateOff   = "OFF"   // the job does not take part; Workspace.Reason says why
)

// Workspace is what a job starts in.
type Workspace struct {
	State string `json:"state"`
	// View is the host-side path of the workspace, "" if the job has none and uses
	// its runner's own directories. Name is its last element, the same on every
	// host for a project, always 26 characters of [0-9a-z]: the runner's builds
	// directory, as the job sees it, joined with Name is where the job works.
	View string `json:"view,omitempty"`
	Name string `json:"name,omitempty"`
	// Contained are the system's ids of jobs whose files are all in the workspace, so that
	// nothing of theirs has to be downloaded.
	Contained []string `json:"contained,omitempty"`
	// Lines are for the job's log, one line each, before its first byte.
	Lines []string `json:"lines,omitempty"`
	// Code and Reason say why it is as it is: a word of the coordinator's closed list
	// (coordinator/api, "What a job found") and a sentence.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Env are variables that the job should see, in place of its own of the same
	// name: ROOST (true), ROOST_HOST, ROOST_ATTEMPT_ID, ROOST_PIPELINE_ID,
	// ROOST_WORKSPACE_STATE, ROOST_WORKSPACE_ORIGIN, ROOST_WORKSPACE_REASON; and unless State
	// is StateOff ROOST_DURABILITY, what the job's success has to mean (local, synced, durable):
	// with durable a plugin waits for Seal as long as its system allows.
	Env map[string]string `json:"env,omitempty"`
}

// SealRequest is a job that succeeded.
type SealRequest struct {
	Attempt snapshot.ID `json:"attempt"`
	// Run is how long the job took on its runner.
	Run time.Duration `json:"run"`
	// Within is how long sealing may take at most, durability included, before the
	// job's system stops listening. 0: no limit.
	Within time.Duration `json:"within"`
}

// Sealed is what became of the workspace of a job that succeeded.
type Sealed struct {
	// Output is the snapshot that the jobs after it start from, "" if there is none.
	Output snapshot.ID `json:"output,omitempty"`
	// Failed says that the job must not count as a success: it promised a durability
	// that could not be had. Reason says why.
	Failed bool     `json:"failed,omitempty"`
	Reason string   `json:"reason,omitempty"`
	Lines  []string `json:"lines,omitempty"` // for the log, after its last byte
}

// Outcome is how a job ended that has nothing to keep.
type Outcome string

// The outcomes of Discard.
const (
	OutcomeFailed   Outcome = "failed"
	OutcomeCanceled Outcome = "canceled"
	// OutcomeSystem: it failed for no fault of its script, and its system knows.
	OutcomeSystem Outcome = "system-failure"
	// OutcomeUndelivered: no runner ever saw it, so that it may be given to another
	// host. Only this one gives the job back.
	OutcomeUndelivered Outcome = "undelivered"
)

// DiscardRequest is a job that leaves nothing.
type DiscardRequest struct {
	Attempt  snapshot.ID `json:"attempt"`
	Outcome  Outcome     `json:"outcome"`
	ExitCode int         `json:"exit_code,omitempty"` // of its script, 0 if there is none
	Reason   string      `json:"reason,omitempty"`    // one line for people
	// Run is how long the job took on its runner, 0 if it never ran.
	Run time.Duration `json:"run,omitempty"`
}

// Held is an attempt that has not ended.
type Held struct {
	Attempt snapshot.ID `json:"attempt"`
	Slot    int         `json:"slot"`
	// Attached says that its workspace is ready, or that it has none.
	Attached bool `json:"attached"`
}
