package api

import "github.com/roost-ci/roost/snapshot"

// Submit asks for a pipeline. POST /v1/pipelines with an Idempotency-Key; 201, 200
// for the same key and body again, 409 for the same key with another body, 422
// with every problem of the file.
type Submit struct {
	Project   string            `json:"project"`
	File      string            `json:"file"` // shown in messages
	Text      string            `json:"text"` // the pipeline file itself
	Variables map[string]string `json:"variables,omitempty"`
	Source    *Source           `json:"source,omitempty"`
}

// Source is what jobs without parents check out. Exactly one of Dir and URL is
// set. Dir is a work tree on the coordinator's own machine, which it serves to
// agents over HTTP; only an embedded coordinator accepts it.
type Source struct {
	Dir    string `json:"dir,omitempty"`
	URL    string `json:"url,omitempty"`
	Ref    string `json:"ref,omitempty"`
	Commit string `json:"commit,omitempty"`
}

// Status of a pipeline or a job.
type Status string

// A job goes pending -> running -> an end; a job that can't become runnable any
// more is skipped. A pipeline is running until all its jobs have ended.
const (
	StatusPending  Status = "pending"  // waits for its needs
	StatusQueued   Status = "queued"   // could start; waits for a host
	StatusAssigned Status = "assigned" // given to an agent, view not ready yet
	StatusRunning  Status = "running"
	StatusSuccess  Status = "success"
	StatusFailed   Status = "failed"
	StatusCanceled Status = "canceled"
	StatusSkipped  Status = "skipped"
)

// Ended reports whether s is final.
func (s Status) Ended() bool {
	return s == StatusSuccess || s == StatusFailed || s == StatusCanceled || s == StatusSkipped
}

// Pipeline is one run of a pipeline file. GET /v1/pipelines/{id}; the id is a ULID
// or the number.
type Pipeline struct {
	ID        string `json:"id"`
	Number    int64  `json:"number"`
	Project   string `json:"project"`
	File      string `json:"file"`
	Status    Status `json:"status"`
	CreatedMS int64  `json:"created_ms"`
	EndedMS   int64  `json:"ended_ms,omitempty"`
	Jobs      []Job  `json:"jobs,omitempty"`
}

// Job is one job of a pipeline and its newest attempt.
type Job struct {
	ID           string      `json:"id"` // ULID
	Name         string      `json:"name"`
	Stage        string      `json:"stage"`
	Needs        []string    `json:"needs,omitempty"` // names; all that it waits for
	Tags         []string    `json:"tags,omitempty"`
	AllowFailure bool        `json:"allow_failure,omitempty"`
	Status       Status      `json:"status"`
	Attempt      int         `json:"attempt"`              // 0 before the first
	AttemptID    snapshot.ID `json:"attempt_id,omitempty"` // names the log
	Host         string      `json:"host,omitempty"`
	// Reason is why the job is as it is: what it waits for, why it failed. Code is
	// from the closed list in reasons.go, Reason is a sentence.
	Code     Code      `json:"code,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	ExitCode int       `json:"exit_code,omitempty"`
	QueuedMS int64     `json:"queued_ms,omitempty"`
	StartMS  int64     `json:"start_ms,omitempty"` // assigned
	RunMS    int64     `json:"run_ms,omitempty"`   // duration of the script
	EndMS    int64     `json:"end_ms,omitempty"`
	Placed   Placement `json:"placed,omitzero"`
	// Workspace is what the job found and what it moved.
	Workspace Workspace `json:"workspace"`
	// Origin is where a job of another system comes from.
	Origin *Origin `json:"origin,omitempty"`
	// Layer is what is known of the job's output; zero until it is packed.
	Layer LayerRef `json:"layer,omitzero"`
}

// Origin is where a job of another system comes from.
type Origin struct {
	System string `json:"system"`
	ID     int64  `json:"id"`
	// Web is the address of its page there, https or http; "" if it is not known.
	Web  string `json:"web,omitempty"`
	Pool string `json:"pool"`
	// Owed, if set, is what its system has not been told yet.
	Owed string `json:"owed,omitempty"`
}

// Placement is why a job ran where it ran.
type Placement struct {
	Code       Code        `json:"code,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	Candidates []Candidate `json:"candidates,omitempty"`
}

// Candidate is one host under scoring, as `roost why` shows it.
type Candidate struct {
	Host         string  `json:"host"`
	MissingBytes int64   `json:"missing_bytes"`
	Seconds      float64 `json:"seconds"` // until the job could start there
	Excluded     string  `json:"excluded,omitempty"`
}

// State of a workspace at the start of a job. There is nothing between them.
const (
	StateFull  = "FULL"  // all that the job's inputs hold
	StateFresh = "FRESH" // empty, or as the commit has it
	StateOff   = "OFF"   // the job does not take part
)

// Where a workspace's snapshot came from, and where its bytes did.
const (
	OriginParent = "parent"
	OriginSeed   = "seed"
	OriginNone   = "none"

	SourceLocal = "local"
	SourceStore = "store"
	SourceMixed = "mixed"
	SourceNone  = "none"
)

// Workspace is what happened to a job's files. It is the agent's report.
type Workspace struct {
	State  string `json:"state,omitempty"`
	Origin string `json:"origin,omitempty"`
	Source string `json:"source,omitempty"`
	// Code and Reason say why it was as it was ("seed of pipeline 12", "cold: no
	// earlier pipeline of this project").
	Code   Code        `json:"code,omitempty"`
	Reason string      `json:"reason,omitempty"`
	Inputs []string    `json:"inputs,omitempty"` // snapshot ids that it started from
	Output snapshot.ID `json:"snapshot,omitempty"`
	// BytesNeeded is the size of the tree that the job started with. BytesMoved
	// counts what came over sockets plus content copied on the host, at the calls
	// that moved it. BytesWritten is all content that the store wrote to attach.
	BytesNeeded  int64   `json:"bytes_needed"`
	BytesMoved   int64   `json:"bytes_moved"`
	BytesWritten int64   `json:"bytes_written"`
	AttachMS     float64 `json:"attach_ms"`
	SealMS       float64 `json:"seal_ms"`
	Driver       string  `json:"driver,omitempty"`
	// MTimeDivergence counts paths on which parents differed by time alone.
	MTimeDivergence int `json:"mtime_divergence,omitempty"`
}

// Event is one thing that happened in a pipeline. Seq ascends by one per pipeline.
// GET /v1/pipelines/{id}/events?after=SEQ&wait=30s long-polls for the next ones.
type Event struct {
	Seq    int64  `json:"seq"`
	TimeMS int64  `json:"time_ms"`
	Job    string `json:"job,omitempty"` // name; "" for the pipeline itself
	Status Status `json:"status"`
	Code   Code   `json:"code,omitempty"`
	Text   string `json:"text,omitempty"`
}

// Problem is one thing wrong in a pipeline file.
type Problem struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Code    string `json:"code"` // stable; docs/pipeline.md lists them
	Text    string `json:"text"`
	Warning bool   `json:"warning,omitempty"`
}
