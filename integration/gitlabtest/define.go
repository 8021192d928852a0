package gitlabtest

import (
	"time"
)

// PipelineDef is a pipeline to run.
type PipelineDef struct {
	// Ref is a branch, or a tag if Tag is set; "" is main. SHA is the commit, "" for the
	// branch's newest.
	Ref string
	Tag bool
	SHA string
	// Protected says that the ref is.
	Protected bool
	// MR is the merge request whose pipeline it is.
	MR *MergeRequest
	// Source is CI_PIPELINE_SOURCE; "" is push, or merge_request_event.
	Source string
	// Stages are in their order; nil is build, test, deploy.
	Stages []string
	// Variables are a trigger's: they come last, so that they win.
	Variables []Variable
	Jobs      []JobDef
	User      int64
}

// MergeRequest is where a pipeline's code comes from.
type MergeRequest struct {
	IID int64
	// Source is the project that the branch is in, if it is a fork.
	Source *Project
	Branch string
	// Gone says that Source was deleted: the server says nothing of it any more.
	Gone bool
}

// Variable is one of a job's variables, as in the payload.
type Variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	File   bool   `json:"file"`
	Masked bool   `json:"masked"`
	Raw    bool   `json:"raw"`
}

// Need is an entry of needs. Artifacts are fetched unless NoArtifacts.
type Need struct {
	Job         string
	NoArtifacts bool
	Optional    bool
}

// Needs names jobs by their names alone.
func Needs(names ...string) []Need {
	n := make([]Need, 0, len(names))
	for _, name := range names {
		n = append(n, Need{Job: name})
	}
	return n
}

// Artifact is one entry of a job's artifacts.
type Artifact struct {
	Name      string   `json:"name,omitempty"`
	Untracked bool     `json:"untracked"`
	Paths     []string `json:"paths"`
	Exclude   []string `json:"exclude,omitempty"`
	When      string   `json:"when,omitempty"`
	Type      string   `json:"artifact_type"`
	Format    string   `json:"artifact_format"`
	ExpireIn  string   `json:"expire_in,omitempty"`
}

// Cache is one entry of a job's caches.
type Cache struct {
	Key    string   `json:"key"`
	Paths  []string `json:"paths"`
	Policy string   `json:"policy,omitempty"`
}

// When a job starts.
const (
	OnSuccess = "on_success"
	OnFailure = "on_failure"
	Always    = "always"
	Manual    = "manual"
)

// JobDef is a job of a pipeline.
type JobDef struct {
	Name, Stage string // Stage "" is test
	Script      []string
	AfterScript []string
	// Needs: nil is all of the stages before; an empty list starts the job at once.
	Needs []Need
	// Dependencies cuts down whose artifacts are fetched; nil does not.
	Dependencies []string
	// Parallel makes that many jobs, "name 1/3" and so on.
	Parallel     int
	When         string
	AllowFailure bool
	// Retry is how often a failed job is tried again by the server.
	Retry     int
	Tags      []string
	Timeout   time.Duration // 0: an hour
	Image     string
	Services  []string
	Artifacts []Artifact
	Cache     []Cache
	Variables []Variable // of the YAML file
	Hooks     map[string][]string
	// Policy says that the job comes from a security policy of that name.
	Policy string
	// Requires are features without which a runner can't have it.
	Requires []string
	// NoFetch is allow_git_fetch false: GIT_STRATEGY clone is the project's setting.
	NoFetch bool
	// Edit, if set, has the last word on the payload.
	Edit func(payload map[string]any)
}

// Status is a job's or a pipeline's.
type Status string

// The statuses.
const (
	Created   Status = "created"
	Pending   Status = "pending"
	Running   Status = "running"
	Canceling Status = "canceling"
	Success   Status = "success"
	Failed    Status = "failed"
	Canceled  Status = "canceled"
	Skipped   Status = "skipped"
	ManualJob Status = "manual"
)

// Ended says that nothing changes it any more but a person.
func (s Status) Ended() bool {
	return s == Success || s == Failed || s == Canceled || s == Skipped
}

// Archive is the usual artifact: a zip of paths, kept when the job succeeds.
func Archive(paths ...string) []Artifact {
	return []Artifact{{Paths: paths, When: OnSuccess, Type: "archive", Format: "zip"}}
}
