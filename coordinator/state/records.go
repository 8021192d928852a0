package state

import (
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// Pipeline is one run of a pipeline file.
type Pipeline struct {
	ID      string `json:"-"`
	Version int64  `json:"-"`
	Number  int64  `json:"-"`
	Project string `json:"-"`
	// Key is the submission's idempotency key, unique; KeyHash is of its body.
	Key     string `json:"-"`
	KeyHash string `json:"key_hash"`

	Zone      string        `json:"zone"`
	File      string        `json:"file"`
	Source    *api.Source   `json:"source,omitempty"`
	Problems  []api.Problem `json:"problems,omitempty"` // warnings about the file
	Status    api.Status    `json:"status"`
	Canceled  bool          `json:"canceled,omitempty"`
	CreatedMS int64         `json:"created_ms"`
	EndedMS   int64         `json:"ended_ms,omitempty"`
	// Open says that jobs may still be added: its status is the one so far. It stays
	// live until it is closed. AddedMS is when the newest job came.
	Open    bool     `json:"open,omitempty"`
	AddedMS int64    `json:"added_ms,omitempty"`
	Jobs    []string `json:"jobs"`   // ids in file order
	Events  int64    `json:"events"` // sequence number of the newest
}

// Live reports whether the pipeline belongs to the picture: it runs, or more may
// come.
func (p *Pipeline) Live() bool { return p.Open || !p.Status.Ended() }

// Def is the part of a job that never changes.
type Def struct {
	Spec  api.JobSpec `json:"spec"`
	Needs []string    `json:"needs,omitempty"` // as the file says
	// HasNeeds says that the job waits for Needs instead of stages.
	HasNeeds bool `json:"has_needs,omitempty"`
	// Waits are the names of all jobs that must have ended, Parents of those whose
	// workspace it inherits.
	Waits        []string `json:"waits,omitempty"`
	Parents      []string `json:"parents,omitempty"`
	Tags         []string `json:"tags,omitempty"`
	AllowFailure bool     `json:"allow_failure,omitempty"`
	AllowCodes   []int    `json:"allow_codes,omitempty"`
	When         string   `json:"when"`
	Retry        int      `json:"retry,omitempty"`
	Source       bool     `json:"source,omitempty"`
	// External is set for a job of another system. Its parents are in Job.Outside.
	External *External `json:"external,omitempty"`
}

// External is where a job of another system comes from and what it asked for. Its
// payload is kept apart, sealed.
type External struct {
	System string `json:"system"`
	Pool   string `json:"pool"` // name of the hosts that may run it
	URL    string `json:"url"`  // of the system
	// Instance names the system, ID the job there and Pipeline its pipeline.
	Instance string `json:"instance"`
	ID       int64  `json:"id"`
	Pipeline int64  `json:"pipeline"`
	Web      string `json:"web,omitempty"`  // address of the job's page
	Name     string `json:"name"`           // of the workspace's directory
	Off      string `json:"off,omitempty"`  // why it has no workspace
	Path     string `json:"path,omitempty"` // of its project there
	// Plain says that the runner's lines in the job's log have no times before them.
	Plain bool `json:"plain,omitempty"`
	// Host and Slot are set if a runner had the job already: it starts there.
	Host          string `json:"host,omitempty"`
	Slot          int    `json:"slot,omitempty"`
	Durability    string `json:"durability,omitempty"`
	FetchBudgetMS int64  `json:"fetch_budget_ms,omitempty"`
	// ReceivedMS is when the system gave it: its clock runs since then.
	ReceivedMS int64 `json:"received_ms"`
}

// Outside is what changes about a job of another system.
type Outside struct {
	// From are the jobs whose files it starts from, by id: names come again with every
	// retry there. Rule says how they were found, Asking that the system is asked for
	// more.
	From   []string `json:"from,omitempty"`
	Rule   string   `json:"rule,omitempty"`
	Asking bool     `json:"asking,omitempty"`
	// Notes say what of its settings could not be followed, for its log.
	Notes []string `json:"notes,omitempty"`
	// Log is what was written into its log there, Sent how much of that surely is
	// there. What is beyond was sent and not answered.
	Log  []byte `json:"log,omitempty"`
	Sent int    `json:"sent,omitempty"`
	// Unsure says that somebody else may have written since.
	Unsure bool `json:"unsure,omitempty"`
	// Owed, if set, is why the job failed, which the system has to be told until it
	// answers, and OwedMS from when on.
	Owed   string `json:"owed,omitempty"`
	OwedMS int64  `json:"owed_ms,omitempty"`
	// Given is how often the system gave it again.
	Given int `json:"given,omitempty"`
	// Waited is what it waited for when it got its host.
	Waited string `json:"waited,omitempty"`
	// Quiet says that somebody else writes the end of its log.
	Quiet bool `json:"quiet,omitempty"`
	// Stopped says that the system asked for its end itself.
	Stopped bool `json:"stopped,omitempty"`
}

// Payload is a job as another system gave it, sealed.
type Payload struct {
	Job    string // id
	Sealed []byte
}

// Job is one job of a pipeline: its definition, what is fixed about it and how
// its newest attempt stands.
type Job struct {
	ID       string `json:"-"`
	Version  int64  `json:"-"`
	Pipeline string `json:"-"`
	Index    int    `json:"-"` // place in the file
	Def      *Def   `json:"-"` // written once

	Status   api.Status `json:"status"`
	Code     api.Code   `json:"code,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	ExitCode int        `json:"exit_code,omitempty"`
	QueuedMS int64      `json:"queued_ms,omitempty"`
	StartMS  int64      `json:"start_ms,omitempty"`
	RunMS    int64      `json:"run_ms,omitempty"`
	EndMS    int64      `json:"end_ms,omitempty"`

	// Epoch fences: it rises with each attempt, and only a call under the newest
	// one changes the job.
	Epoch     int64         `json:"epoch"`
	Attempts  int           `json:"attempts"` // how many there were
	AttemptID snapshot.ID   `json:"attempt_id,omitempty"`
	Host      string        `json:"host,omitempty"`
	Placed    api.Placement `json:"placed,omitzero"`
	Workspace api.Workspace `json:"workspace,omitzero"`

	// Inputs are fixed at the first assignment (Fixed) and kept for every later
	// one. InputCode and InputReason say where they came from.
	Fixed       bool        `json:"fixed,omitempty"`
	Inputs      []api.Input `json:"inputs,omitempty"`
	Origin      string      `json:"origin,omitempty"`
	InputCode   api.Code    `json:"input_code,omitempty"`
	InputReason string      `json:"input_reason,omitempty"`
	// Output is set once, by the attempt of the newest epoch.
	Output snapshot.ID `json:"output,omitempty"`

	Retries   int      `json:"retries,omitempty"`       // of the script
	Infra     int      `json:"infra_retries,omitempty"` // counted apart
	Avoid     []string `json:"avoid,omitempty"`         // hosts that failed it
	NotBefore int64    `json:"not_before_ms,omitempty"`
	Cancel    bool     `json:"cancel,omitempty"` // somebody asked for it

	Outside Outside `json:"outside,omitzero"`
}

// Stages of an attempt's life, in order.
const (
	AttemptAssigned = "assigned" // reserved, perhaps delivered
	AttemptAccepted = "accepted" // its host has it
	AttemptRunning  = "running"  // its script began
	AttemptEnded    = "ended"
)

// Attempt is one run of a job on a host.
type Attempt struct {
	ID      snapshot.ID `json:"-"`
	Version int64       `json:"-"`
	Job     string      `json:"-"`
	Epoch   int64       `json:"-"`

	Number    int           `json:"number"`
	Host      string        `json:"host"`
	Stage     string        `json:"stage"`
	Status    api.Status    `json:"status,omitempty"`
	Code      api.Code      `json:"code,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	ExitCode  int           `json:"exit_code,omitempty"`
	StartMS   int64         `json:"start_ms"`
	RunMS     int64         `json:"run_ms,omitempty"`
	EndMS     int64         `json:"end_ms,omitempty"`
	Placed    api.Placement `json:"placed,omitzero"`
	Workspace api.Workspace `json:"workspace,omitzero"`
	Output    snapshot.ID   `json:"output,omitempty"`
	// Finished says that the host ended it, so that a repeated finish under the
	// same epoch gets the same answer: IsOutput.
	Finished bool `json:"finished,omitempty"`
	IsOutput bool `json:"is_output,omitempty"`
}

// Snapshot is a sealed snapshot and what is known of its layer.
type Snapshot struct {
	ID      snapshot.ID `json:"-"`
	Version int64       `json:"-"`

	// Job made it, "" until its attempt has finished.
	Job         string        `json:"job,omitempty"` // id
	JobName     string        `json:"job_name,omitempty"`
	Project     string        `json:"project,omitempty"`
	Zone        string        `json:"zone,omitempty"`
	Host        string        `json:"host,omitempty"`
	Fingerprint string        `json:"fingerprint,omitempty"`
	CreatedMS   int64         `json:"created_ms,omitempty"`
	Bytes       int64         `json:"bytes,omitempty"` // of the layer, before it is packed
	Parents     []snapshot.ID `json:"parents,omitempty"`
	// Packed says that Layer holds the facts; Layer.Durable that the blob store
	// has all of it.
	Packed bool         `json:"packed,omitempty"`
	Layer  api.LayerRef `json:"layer,omitzero"`
}

// Host is what is kept of a host: enough to know it again.
type Host struct {
	Name    string `json:"-"`
	Version int64  `json:"-"`

	Agent       snapshot.ID `json:"agent"`
	StoreID     snapshot.ID `json:"store_id"`
	Session     snapshot.ID `json:"session"`
	BootID      string      `json:"boot_id"`
	State       string      `json:"state"` // as in api.Host
	Slots       int         `json:"slots"`
	Tags        []string    `json:"tags,omitempty"`
	Driver      string      `json:"driver"`
	OS          string      `json:"os"`
	Arch        string      `json:"arch"`
	Fingerprint string      `json:"fingerprint"`
	Pool        string      `json:"pool,omitempty"` // whose runners' jobs it takes
	Software    string      `json:"version"`
	SinceMS     int64       `json:"since_ms"`
	LostMS      int64       `json:"lost_ms,omitempty"`
}

// Domain is a unit of sharing and its key.
type Domain struct {
	Project string
	Zone    string
	Key     []byte
}

// Event is one event of a pipeline.
type Event struct {
	Pipeline string
	api.Event
}

// Seed says that a green pipeline left a snapshot that the same job of a later
// pipeline may start from.
type Seed struct {
	Project     string
	Zone        string
	Job         string // name
	Fingerprint string
	Number      int64 // of the pipeline
	Snapshot    snapshot.ID
}

// Duration is how long the script of a job took so far, as a moving average.
type Duration struct {
	Project string
	Job     string
	MS      float64
	Count   int64
}
