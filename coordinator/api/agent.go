package api

import "github.com/roost-ci/roost/snapshot"

// Register announces a host. POST /v1/agents:register. A name that a live session
// of another agent holds is refused with CodeNameTaken.
type Register struct {
	Name    string      `json:"name"`
	StoreID snapshot.ID `json:"store_id"` // the same store may take its name back at once
	Session snapshot.ID `json:"session"`  // new at each start of the agent
	BootID  string      `json:"boot_id"`
	Slots   int         `json:"slots"`
	Tags    []string    `json:"tags,omitempty"`
	Driver  string      `json:"driver"`
	OS      string      `json:"os"`
	Arch    string      `json:"arch"`
	// Fingerprint is all that must be equal for a snapshot to be of use on another
	// host: os, arch, path of the view.
	Fingerprint string `json:"fingerprint"`
	Version     string `json:"version"`
	// Pool is set by a host whose jobs come from another system through its own
	// runners. It takes no others.
	Pool *Pool `json:"pool,omitempty"`
	// Holdings is everything that the store holds now.
	Holdings []Holding `json:"holdings,omitempty"`
	// Attempts are those that this store still knows of: a view without an end.
	Attempts []AttemptRef `json:"attempts,omitempty"`
}

// Registered answers Register.
type Registered struct {
	Agent       snapshot.ID `json:"agent"`
	LeaseMS     int64       `json:"lease_ms"`
	HeartbeatMS int64       `json:"heartbeat_ms"`
	// Ended names those of Register.Attempts that are over: their views may go.
	Ended []snapshot.ID `json:"ended,omitempty"`
}

// Holding is one snapshot in a host's store.
type Holding struct {
	ID snapshot.ID `json:"id"`
	// Bytes is what this layer adds on disk here; Gone says that it was evicted.
	Bytes int64 `json:"bytes,omitempty"`
	Gone  bool  `json:"gone,omitempty"`
	// Of is what the host has with it of snapshots that it does not hold by their names:
	// it fetched a line for its last one. It makes a fetch of them, or of what stands on
	// them, cheaper, and is good for an estimate of that alone. No more than MaxParts.
	Of []Part `json:"of,omitempty"`
}

// MaxParts bounds Holding.Of. More are ignored.
const MaxParts = 64

// Part is how much a host has of what one layer stored.
type Part struct {
	ID    snapshot.ID `json:"id"`
	Bytes int64       `json:"bytes,omitempty"` // as they are stored, without the index
	// Tree is the size of the tree that it is there with, without what came after the
	// layer; 0 if that is not known.
	Tree int64 `json:"tree,omitempty"`
}

// AttemptRef names an attempt under its epoch.
type AttemptRef struct {
	Attempt snapshot.ID `json:"attempt"`
	Epoch   int64       `json:"epoch"`
}

// Heartbeat renews the host's lease and those of its attempts.
// POST /v1/agents/{agent}:heartbeat. 404 means: register again.
type Heartbeat struct {
	Session   snapshot.ID  `json:"session"`
	FreeSlots int          `json:"free_slots"`
	Attempts  []AttemptRef `json:"attempts,omitempty"`
	Holdings  []Holding    `json:"holdings,omitempty"` // what changed since the last
	DiskFree  int64        `json:"disk_free"`
	DiskTotal int64        `json:"disk_total"`
	// Queue is how many bytes wait to be uploaded.
	Queue int64 `json:"queue_bytes"`
	// EncodeRate is plain bytes per second at which this host encoded its last
	// layers, 0 while unknown. UploadRate is in stored bytes per second.
	EncodeRate float64 `json:"encode_rate,omitempty"`
	UploadRate float64 `json:"upload_rate,omitempty"`
	// Evicted is how many layers went for want of room since the agent's start, and
	// EvictedBytes about what that freed.
	Evicted      int64 `json:"evicted,omitempty"`
	EvictedBytes int64 `json:"evicted_bytes,omitempty"`
}

// HeartbeatReply tells the agent what changed.
type HeartbeatReply struct {
	// Cancel are attempts that must stop; Fenced are attempts that are not this
	// host's any more: their output will be refused.
	Cancel []snapshot.ID `json:"cancel,omitempty"`
	Fenced []snapshot.ID `json:"fenced,omitempty"`
	// Urgent are snapshots that a job on another host waits for: upload them first.
	Urgent []snapshot.ID `json:"urgent,omitempty"`
	// Missing are blobs that the blob store lost: whoever can make them uploads them.
	Missing []snapshot.Digest `json:"missing,omitempty"`
}

// ClaimRequest asks for work. POST /v1/agents/{agent}/claims long-polls until
// there is a job, or WaitMS is over (200 with an empty list).
type ClaimRequest struct {
	Session   snapshot.ID `json:"session"`
	FreeSlots int         `json:"free_slots"`
	WaitMS    int64       `json:"wait_ms"`
	// Offers are the free slots of a host with a pool, one for each of FreeSlots.
	Offers []SlotOffer `json:"offers,omitempty"`
}

// Claims answers ClaimRequest.
type Claims struct {
	Claims []Claim `json:"claims"`
	// Refused are offered slots whose jobs get no workspace.
	Refused []Refusal `json:"refused,omitempty"`
}

// Refusal says why a job that a runner had already gets no workspace.
type Refusal struct {
	Slot   int    `json:"slot"`
	Reason string `json:"reason"`
	// Later says that the same offer may be taken in a while.
	Later bool `json:"later,omitempty"`
}

// Claim is one attempt given to a host under an epoch. It must be accepted within
// AcceptMS or it goes to somebody else under the next epoch.
type Claim struct {
	Attempt        snapshot.ID `json:"attempt"`
	Number         int         `json:"number"` // 1 for the first attempt
	Epoch          int64       `json:"epoch"`
	AcceptMS       int64       `json:"accept_ms"`
	LeaseMS        int64       `json:"lease_ms"`
	Pipeline       string      `json:"pipeline"`
	PipelineNumber int64       `json:"pipeline_number"`
	Project        string      `json:"project"`
	Job            JobSpec     `json:"job"`
	// Token is good for this attempt alone: its source and nothing else.
	Token  string  `json:"token"`
	Source *Source `json:"source,omitempty"` // Dir is never set: it became a URL
	// Inputs are the snapshots to start from, in needs order, ancestors of one
	// another left out. Origin says where they come from.
	Inputs []Input `json:"inputs,omitempty"`
	Origin string  `json:"origin"`
	Code   Code    `json:"code"`
	Reason string  `json:"reason"`
	// Lineage has every ancestor of Inputs, for the merge base.
	Lineage []Node `json:"lineage,omitempty"`
	// Layers is all that is needed to fetch Inputs from the blob store, each base
	// before what stands on it. A layer that is not durable is not listed.
	Layers []LayerRef `json:"layers,omitempty"`
	// DomainKey keys the chunk ids of the job's domain.
	DomainKey []byte `json:"domain_key"`
	// External is set for a job of another system: Job has no script then.
	External *External `json:"external,omitempty"`
}

// Input is one parent's output.
type Input struct {
	Job      string          `json:"job"`
	Snapshot snapshot.ID     `json:"snapshot"`
	Manifest snapshot.Digest `json:"manifest,omitzero"` // zero until packed
}

// Node is one snapshot in a lineage.
type Node struct {
	ID      snapshot.ID   `json:"id"`
	Parents []snapshot.ID `json:"parents,omitempty"`
	Job     string        `json:"job"`
}

// LayerRef is what the coordinator knows of a packed snapshot.
type LayerRef struct {
	ID snapshot.ID `json:"id"`
	// Base is the snapshot that the layer's changes are against, "" for none.
	Base snapshot.ID `json:"base,omitempty"`
	// Index is the digest of the layer's index blob, Manifest that of the whole
	// snapshot's manifest.
	Index      snapshot.Digest `json:"index"`
	IndexBytes int64           `json:"index_bytes"`
	Manifest   snapshot.Digest `json:"manifest"`
	// StoredBytes is what a host with Base and no more fetches for it: its own packs and
	// its index; if there is no Base, all that the tree is stored in. TreeBytes is the
	// size of the whole tree.
	StoredBytes int64 `json:"stored_bytes"`
	// OwnBytes is what of StoredBytes this layer stored itself, with its index; 0: all.
	// The rest is in the packs of its ancestors.
	OwnBytes  int64 `json:"own_bytes,omitempty"`
	TreeBytes int64 `json:"tree_bytes"`
	Entries   int64 `json:"entries"`
	// EncodeMS is how long this host took to encode PlainBytes of it.
	PlainBytes int64   `json:"plain_bytes"`
	EncodeMS   float64 `json:"encode_ms"`
	Durable    bool    `json:"durable"`
}

// JobSpec is what an adapter needs to run a job, and what the agent needs to
// prepare and seal its view.
type JobSpec struct {
	Name   string   `json:"name"`
	Stage  string   `json:"stage"`
	Index  int      `json:"index,omitempty"` // of parallel: N, from 1; 0 if none
	Total  int      `json:"total,omitempty"`
	Before []string `json:"before_script,omitempty"`
	Script []string `json:"script"`
	After  []string `json:"after_script,omitempty"`
	// Variables are as they stand in the file: the agent expands $NAME and ${NAME},
	// and $$ is a dollar sign.
	Variables map[string]string `json:"variables,omitempty"`
	TimeoutMS int64             `json:"timeout_ms,omitempty"`
	Workspace WorkspaceSpec     `json:"workspace"`
}

// WorkspaceSpec is the workspace key of a job, defaults filled in.
type WorkspaceSpec struct {
	Disabled   bool     `json:"disabled,omitempty"` // workspace: false
	Commit     string   `json:"commit"`             // on_success, if-changed, never
	Mode       string   `json:"mode"`               // required, optional
	OnConflict string   `json:"on_conflict"`        // error, order
	Prefer     []Prefer `json:"prefer,omitempty"`   // the first glob that matches decides
	Atomic     []string `json:"atomic,omitempty"`   // globs of trees that are taken whole
	Caches     []string `json:"caches,omitempty"`   // globs on which parents never conflict
}

// Prefer says which job wins on paths that match a glob.
type Prefer struct {
	Glob string `json:"glob"`
	Job  string `json:"job"`
}

// Accept takes a claim. POST /v1/attempts/{attempt}:accept; every call on an
// attempt carries its epoch in the X-Roost-Epoch header, and a stale one is
// answered with 409 CodeFenced. Start (":start") says that the script begins.
type Accept struct{}

// Start says that the view is ready and the script begins.
type Start struct {
	Workspace Workspace `json:"workspace"`
}

// Finish ends an attempt. POST /v1/attempts/{attempt}:finish. Once; a repetition
// with the same epoch gets the same answer. The job's output is set in the same
// transaction: at most one per job and epoch.
type Finish struct {
	// Status is success, failed or canceled. Infrastructure says that it was not
	// the script's fault: the job is tried again, on another host where there is one.
	Status         Status `json:"status"`
	Infrastructure bool   `json:"infrastructure,omitempty"`
	// Undelivered says of an external job that no runner saw it: it may be given to
	// another host. Without it an infrastructure failure ends it.
	Undelivered bool   `json:"undelivered,omitempty"`
	Code        Code   `json:"code,omitempty"`
	Reason      string `json:"reason,omitempty"`
	ExitCode    int    `json:"exit_code,omitempty"`
	RunMS       int64  `json:"run_ms"`
	// Output is the sealed snapshot, "" for none; Parents are what it came from.
	Output    snapshot.ID   `json:"output,omitempty"`
	Parents   []snapshot.ID `json:"parents,omitempty"`
	Bytes     int64         `json:"bytes,omitempty"`
	Commit    string        `json:"commit,omitempty"`
	Workspace Workspace     `json:"workspace"`
}

// Finished answers Finish.
type Finished struct {
	// Output reports whether the snapshot became the job's output.
	Output bool `json:"output"`
}
