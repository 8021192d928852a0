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
	// Page routes answer people: they take a login by cookie instead of a token.
	Page bool
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
	RouteGetRef         = "get-ref"
	RoutePutRef         = "put-ref"
	RouteGitGet         = "git-get"
	RouteGitPost        = "git-post"
	RouteHealth         = "health"
	RoutePage           = "page"
	RoutePagePipeline   = "page-pipeline"
	RoutePageLog        = "page-log"
	RoutePageStyle      = "page-style"
	RouteMetrics        = "metrics"
)

// Routes is the whole interface. What is not in it does not exist, and a role
// that a route does not list is refused.
func Routes() []Route {
	var out []Route
	add := func(role Role, rs ...Route) {
		for _, r := range rs {
			r.Roles = []Role{role}
			out = append(out, r)
		}
	}
	add(RoleUser,
		Route{Name: RouteSubmit, Method: "POST", Pattern: "/v1/pipelines"},
		Route{Name: RoutePipelines, Method: "GET", Pattern: "/v1/pipelines"},
		Route{Name: RoutePipeline, Method: "GET", Pattern: "/v1/pipelines/{id}"},
		Route{Name: RouteCancelPipeline, Method: "POST", Pattern: "/v1/pipelines/{id}:cancel"},
		Route{Name: RouteEvents, Method: "GET", Pattern: "/v1/pipelines/{id}/events"},
		Route{Name: RouteJob, Method: "GET", Pattern: "/v1/jobs/{id}"},
		Route{Name: RouteLog, Method: "GET", Pattern: "/v1/attempts/{attempt}/log"},
		Route{Name: RouteHosts, Method: "GET", Pattern: "/v1/hosts"},
		Route{Name: RoutePage, Method: "GET", Pattern: "/", Page: true},
		Route{Name: RoutePagePipeline, Method: "GET", Pattern: "/pipelines/{id}", Page: true},
		Route{Name: RoutePageLog, Method: "GET", Pattern: "/logs/{attempt}", Page: true},
		Route{Name: RouteMetrics, Method: "GET", Pattern: "/metrics", Page: true},
	)
	add(RoleAgent,
		Route{Name: RouteRegister, Method: "POST", Pattern: "/v1/agents:register"},
		Route{Name: RouteHeartbeat, Method: "POST", Pattern: "/v1/agents/{agent}:heartbeat"},
		Route{Name: RouteClaims, Method: "POST", Pattern: "/v1/agents/{agent}/claims"},
		Route{Name: RouteLeave, Method: "POST", Pattern: "/v1/agents/{agent}:leave"},
		Route{Name: RouteAccept, Method: "POST", Pattern: "/v1/attempts/{attempt}:accept"},
		Route{Name: RouteStart, Method: "POST", Pattern: "/v1/attempts/{attempt}:start"},
		Route{Name: RouteFinish, Method: "POST", Pattern: "/v1/attempts/{attempt}:finish"},
		Route{Name: RouteAppendLog, Method: "PATCH", Pattern: "/v1/attempts/{attempt}/log"},
		Route{Name: RouteSnapshot, Method: "PUT", Pattern: "/v1/snapshots/{id}"},
		Route{Name: RouteGetBlob, Method: "GET", Pattern: "/v1/blobs/{digest}"},
		Route{Name: RouteHeadBlob, Method: "HEAD", Pattern: "/v1/blobs/{digest}"},
		Route{Name: RoutePutBlob, Method: "PUT", Pattern: "/v1/blobs/{digest}"},
		Route{Name: RouteGetRef, Method: "GET", Pattern: "/v1/blobs/refs/{id}"},
		Route{Name: RoutePutRef, Method: "PUT", Pattern: "/v1/blobs/refs/{id}"},
	)
	add(RoleAttempt,
		Route{Name: RouteGitGet, Method: "GET", Pattern: "/v1/git/{attempt}/{rest...}"},
		Route{Name: RouteGitPost, Method: "POST", Pattern: "/v1/git/{attempt}/{rest...}"},
	)
	all := []Role{RolePublic, RoleUser, RoleAgent, RoleAttempt}
	return append(out, Route{Name: RouteHealth, Method: "GET", Pattern: "/healthz", Roles: all},
		// The page that asks for a token has a style, too.
		Route{Name: RoutePageStyle, Method: "GET", Pattern: "/style.css", Roles: all})
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
	Pool        string   `json:"pool,omitempty"` // whose runners' jobs it takes
	Version     string   `json:"version"`
	SinceMS     int64    `json:"since_ms"` // registered
	SeenMS      int64    `json:"seen_ms"`  // last heartbeat
	Snapshots   int      `json:"snapshots"`
	DiskFree    int64    `json:"disk_free"`
	DiskTotal   int64    `json:"disk_total"`
	Queue       int64    `json:"queue_bytes"`
	// Evicted counts the layers that went for want of room since the agent's start.
	Evicted      int64 `json:"evicted"`
	EvictedBytes int64 `json:"evicted_bytes"`
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
