package api

// Code is a reason from the closed list below: counted, stored, and answered by
// `roost why`. A word keeps its meaning for ever, since old rows have it.
type Code string

// Why a job waits.
const (
	WaitNeeds  Code = "wait-needs"   // a needed job has not ended
	WaitSlot   Code = "wait-slot"    // every host that could run it is full
	WaitHost   Code = "wait-host"    // no host has its tags
	WaitHolder Code = "wait-holder"  // cheaper to wait for the host that has the files
	WaitUpload Code = "wait-upload"  // the free hosts lack files that are not uploaded yet
	WaitLost   Code = "wait-holders" // the only holder is unreachable
)

// Why a job was placed where it was.
const (
	PlacedContinuation Code = "continuation" // on a host that holds all its files
	PlacedCheapest     Code = "cheapest"     // least seconds, bytes and waiting included
	PlacedOnly         Code = "only-host"    // no other host may run it
	PlacedNoInput      Code = "no-input"     // nothing to move: any free host
	PlacedOverdue      Code = "overdue"      // waited long enough for a better one
)

// What a job found.
const (
	WorkspaceParent   Code = "parent"    // the outputs of the jobs that it needs
	WorkspaceMerged   Code = "merged"    // several of them, merged
	WorkspaceSeed     Code = "seed"      // the same job's output in an earlier pipeline
	WorkspaceCold     Code = "cold"      // nothing to start from
	WorkspaceDisabled Code = "disabled"  // workspace: false
	WorkspaceLost     Code = "lost"      // an input is gone and the job is optional
	WorkspaceFault    Code = "fault"     // attaching failed and the job is optional
	WorkspaceOff      Code = "off"       // the job's own settings mean something else, or say so
	WorkspaceConflict Code = "conflict"  // its parents can't be merged and the job is optional
	WorkspaceSeedGone Code = "seed-gone" // the seed can't be had any more
)

// Why an attempt or a job ended badly.
const (
	FailScript      Code = "script-failed"     // a command's exit status was not 0
	FailTimeout     Code = "timeout"           // it ran longer than it may
	FailCanceled    Code = "canceled"          // somebody stopped it
	FailConflict    Code = "merge-conflict"    // its parents changed the same path
	FailInput       Code = "input-lost"        // a required input can't be had
	FailFetch       Code = "fetch-failed"      // or does not arrive
	FailCorrupt     Code = "corrupt-layer"     // or is not what it should be
	FailDiskFull    Code = "disk-full"         // no room for its workspace on the host
	FailAttach      Code = "attach-failed"     // its workspace can't be made, for another reason
	FailHostLost    Code = "host-lost"         // the lease ended
	FailAgentDied   Code = "agent-died"        // the agent came back without the job
	FailAdapter     Code = "adapter-failed"    // what runs jobs could not run it
	FailRetries     Code = "retries-exhausted" // infrastructure failed too often
	FailSource      Code = "checkout-failed"   // its commit can't be had
	FailUndelivered Code = "undelivered"       // no runner took the job
	FailDurable     Code = "not-durable"       // a promised durability was not reached
	SkipNeeds       Code = "needs-failed"      // a job that it needs did not succeed
	SealUnsupported Code = "unsupported-entry" // job green, no output
	SealFailed      Code = "seal-failed"       // job green, no output
	SealUnchanged   Code = "unchanged"         // commit: if-changed, and nothing was
	SealNever       Code = "commit-never"      // commit: never, so that it has no output
)

// Codes of refused calls, in Error.Code.
const (
	CodeFenced       Code = "FENCED"           // 409: the attempt is over, or another host's
	CodeNotFound     Code = "NOT_FOUND"        // 404
	CodeNameTaken    Code = "NAME_TAKEN"       // 409: a live agent has the host's name
	CodeUnauthorized Code = "UNAUTHORIZED"     // 401: no token, or a wrong one
	CodeForbidden    Code = "FORBIDDEN"        // 403: the token is for something else
	CodeInvalid      Code = "INVALID"          // 400, 405, 413 or 416: the call makes no sense
	CodePipeline     Code = "PIPELINE_INVALID" // 422: Problems says where
	CodeConflict     Code = "CONFLICT"         // 409: the key or snapshot is known, as another
	CodeFull         Code = "STORE_FULL"       // 507: no room; it may pass
	CodeInternal     Code = "INTERNAL"         // 500 or 503: may be repeated
)

// Error is the body of every answer above 399.
type Error struct {
	HTTP     int       `json:"-"`
	Code     Code      `json:"code"`
	Text     string    `json:"error"`
	Problems []Problem `json:"problems,omitempty"` // of a pipeline file
}

func (e *Error) Error() string { return e.Text }

// Is makes errors.Is(err, &Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}
