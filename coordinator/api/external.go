package api

import "encoding/json"

// SystemGitLab is the system whose jobs come through a host's runners.
const SystemGitLab = "gitlab"

// Pool is a set of hosts whose runners may take each other's jobs, as a host offers
// it when it registers. The coordinator asks System for jobs in the pool's name, with
// Tokens, but only at a URL that its own configuration allows.
type Pool struct {
	System string `json:"system"`
	Name   string `json:"name"`
	URL    string `json:"url"`
	// Tokens are the runners' tokens, of equal scope and tags. The coordinator keeps them in
	// memory alone: hosts bring them again when it restarts.
	Tokens []string `json:"tokens"`
	// APIToken reads pipelines, if there is one: it knows what a job needs.
	APIToken string `json:"api_token,omitempty"`
	// Mode, Durability and FetchBudgetMS hold for jobs that say nothing else.
	Mode          string `json:"mode,omitempty"`
	Durability    string `json:"durability,omitempty"`
	FetchBudgetMS int64  `json:"fetch_budget_ms,omitempty"`
}

// SlotOffer is a slot whose runner asks for a job now.
type SlotOffer struct {
	Slot int `json:"slot"`
	// Runner is what the runner says of itself, as its system wants to hear it.
	Runner json.RawMessage `json:"runner,omitempty"`
	// Job, if set, is a job that the runner has already: it is assigned to this slot
	// at once.
	Job []byte `json:"job,omitempty"`
}

// External is the part of a claim that comes from another system.
type External struct {
	System string `json:"system"`
	// ID is the job's id there: an attempt's, as a retry gets a new one.
	ID string `json:"id"`
	// Slot is the slot that the job has to go to, 0 for any that was offered.
	Slot int `json:"slot,omitempty"`
	// Payload is the job as its system gave it, with its secrets. AgeMS is how long
	// ago that was.
	Payload []byte `json:"payload"`
	AgeMS   int64  `json:"age_ms"`
	// Log is what the coordinator wrote into the job's log there.
	Log []byte `json:"log,omitempty"`
	// Name is the workspace's directory: 26 characters of [0-9a-z], the same for a
	// project on every host.
	Name string `json:"name"`
	// Off, if set, says why the job has no workspace.
	Off string `json:"off,omitempty"`
	// Parents says by which rule its parents were found, for its log.
	Parents string `json:"parents,omitempty"`
	// Notes say what of the job's own settings is not followed, for its log.
	Notes []string `json:"notes,omitempty"`
	// Contained are the ids of jobs whose files are all in the job's inputs.
	Contained []string `json:"contained,omitempty"`
	// Durability is what the job's success means: local, synced or durable.
	Durability    string `json:"durability,omitempty"`
	FetchBudgetMS int64  `json:"fetch_budget_ms,omitempty"`
}
