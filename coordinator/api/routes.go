package api

import (
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Role is what a bearer token makes of its owner. Nobody has two.
type Role string

// The roles. RolePublic is what a call without a token has.
const (
	RolePublic  Role = "public"
	RoleAgent   Role = "agent"   // a host: takes jobs, reports, moves layers
	RoleUser    Role = "user"    // a person or a program: submits and looks
	RoleAttempt Role = "attempt" // one running job: its own source
)

// Headers of the interface beside the usual ones.
const (
	// HeaderEpoch carries the epoch of an attempt on every call that changes it.
	HeaderEpoch = "X-Roost-Epoch"
	// HeaderKey makes a submission idempotent.
	HeaderKey = "Idempotency-Key"
	// HeaderOffset answers a log call: where the next byte goes or comes from.
	HeaderOffset = "X-Roost-Offset"
	// HeaderLogEnd is "true" once a log will not grow beyond HeaderOffset.
	HeaderLogEnd = "X-Roost-Log-End"
)

// Route is one call of the interface. A pattern's {name} matches one segment or,
// before a ":verb", the part in front of the colon; {rest...} matches what is left.
type Route struct {
	Name    string
	Method  string
	Pattern string
	Roles   []Role
}

// Allows reports whether role may make the call.
func (r Route) Allows(role Role) bool { return slices.Contains(r.Roles, role) }

// Names of the routes.
const (
	RouteSubmit         = "submit"
	RoutePipelines      = "pipelines"
	RoutePipeline       = "pipeline"
	RouteCancelPipeline = "cancel-pipeline"
	RouteEvents         = "events"
	RouteJob            = "job"
	RouteLog            = "log"
	RouteHosts          = "hosts"
	RouteRegister       = "register"
	RouteHeartbeat      = "heartbeat"
	RouteClaims         = "claims"
	RouteLeave          = "leave"
	RouteAccept         = "accept"
	RouteStart          = "start"
	RouteFinish         = "finish"
	RouteAppendLog      = "append-log"
	RouteSnapshot       = "snapshot"
	RouteGetBlob        = "get-blob"
	RouteHeadBlob       = "head-blob"
	RoutePutBlob        = "put-blob"
	RouteGitGet         = "git-get"
	RouteGitPost        = "git-post"
	RouteHealth         = "health"
	RoutePage           = "page"
	RoutePagePipeline   = "page-pipeline"
	RoutePageLog        = "page-log"
	RoutePageStyle      = "page-style"
)

// Routes is the whole interface. What is not in it does not exist, and a role
// that a route does not list is refused. The pages have no role here: they take
// a cookie, which they check themselves.
func Routes() []Route {
	user, agent := []Role{RoleUser}, []Role{RoleAgent}
	public := []Role{RolePublic, RoleUser, RoleAgent, RoleAttempt}
	return []Route{
		{RouteSubmit, "POST", "/v1/pipelines", user},
		{RoutePipelines, "GET", "/v1/pipelines", user},
		{RoutePipeline, "GET", "/v1/pipelines/{id}", user},
		{RouteCancelPipeline, "POST", "/v1/pipelines/{id}:cancel", user},
		{RouteEvents, "GET", "/v1/pipelines/{id}/events", user},
		{RouteJob, "GET", "/v1/jobs/{id}", user},
		{RouteLog, "GET", "/v1/attempts/{attempt}/log", user},
		{RouteHosts, "GET", "/v1/hosts", user},

		{RouteRegister, "POST", "/v1/agents:register", agent},
		{RouteHeartbeat, "POST", "/v1/agents/{agent}:heartbeat", agent},
		{RouteClaims, "POST", "/v1/agents/{agent}/claims", agent},
		{RouteLeave, "POST", "/v1/agents/{agent}:leave", agent},
		{RouteAccept, "POST", "/v1/attempts/{attempt}:accept", agent},
		{RouteStart, "POST", "/v1/attempts/{attempt}:start", agent},
		{RouteFinish, "POST", "/v1/attempts/{attempt}:finish", agent},
		{RouteAppendLog, "PATCH", "/v1/attempts/{attempt}/log", agent},
		{RouteSnapshot, "PUT", "/v1/snapshots/{id}", agent},
		{RouteGetBlob, "GET", "/v1/blobs/{digest}", agent},
		{RouteHeadBlob, "HEAD", "/v1/blobs/{digest}", agent},
		{RoutePutBlob, "PUT", "/v1/blobs/{digest}", agent},

		{RouteGitGet, "GET", "/v1/git/{attempt}/{rest...}", []Role{RoleAttempt}},
		{RouteGitPost, "POST", "/v1/git/{attempt}/{rest...}", []Role{RoleAttempt}},

		{RouteHealth, "GET", "/healthz", public},
		{RoutePage, "GET", "/", public},
		{RoutePagePipeline, "GET", "/pipelines/{id}", public},
		{RoutePageLog, "GET", "/logs/{attempt}", public},
		{RoutePageStyle, "GET", "/style.css", public},
	}
}

// Submitted answers Submit: the pipeline, and the warnings about its file.
type Submitted struct {
	Pipeline
	Problems []Problem `json:"problems,omitempty"`
}

// JobDetail answers GET /v1/jobs/{id}: the job, where it belongs, and everything
// that was tried.
type JobDetail struct {
	Job
	PipelineID     string    `json:"pipeline_id"`
	PipelineNumber int64     `json:"pipeline_number"`
	Project        string    `json:"project"`
	Attempts       []Attempt `json:"attempts,omitempty"` // oldest first
}

// Attempt is one run of a job.
type Attempt struct {
	ID        snapshot.ID `json:"id"`
	Number    int         `json:"number"`
	Epoch     int64       `json:"epoch"`
	Host      string      `json:"host"`
	Status    Status      `json:"status"`
	Code      Code        `json:"code,omitempty"`
	Reason    string      `json:"reason,omitempty"`
	ExitCode  int         `json:"exit_code,omitempty"`
	StartMS   int64       `json:"start_ms"`
	RunMS     int64       `json:"run_ms,omitempty"`
	EndMS     int64       `json:"end_ms,omitempty"`
	Placed    Placement   `json:"placed,omitzero"`
	Workspace Workspace   `json:"workspace"`
}

// Host is one host as the coordinator sees it. GET /v1/hosts.
type Host struct {
	Name        string   `json:"name"`
	State       string   `json:"state"` // ready, lost or left
	Slots       int      `json:"slots"`
	Running     int      `json:"running"`
	Tags        []string `json:"tags,omitempty"`
	Driver      string   `json:"driver"`
	OS          string   `json:"os"`
	Arch        string   `json:"arch"`
	Fingerprint string   `json:"fingerprint"`
	Version     string   `json:"version"`
	SinceMS     int64    `json:"since_ms"` // registered
	SeenMS      int64    `json:"seen_ms"`  // last heartbeat
	Snapshots   int      `json:"snapshots"`
	DiskFree    int64    `json:"disk_free"`
	DiskTotal   int64    `json:"disk_total"`
	Queue       int64    `json:"queue_bytes"`
}

// States of a Host.
const (
	HostReady = "ready"
	HostLost  = "lost" // its lease ended
	HostLeft  = "left" // it said good-bye
)

// Leave says that an agent stops. POST /v1/agents/{agent}:leave.
type Leave struct {
	Session snapshot.ID `json:"session"`
}
