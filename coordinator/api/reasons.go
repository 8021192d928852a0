package api

// Code is a reason from the closed list below: counted, stored, and answered by
// `roost why`.
type Code string

// Why a job waits.
const (
	WaitNeeds  Code = "wait-needs"   // a needed job has not ended
	WaitSlot   Code = "wait-slot"    // every host that could run it is full
	WaitHost   Code = "wait-host"    // no host has its tags
	WaitHolder Code = "wait-holder"  // cheaper to wait for the host that has the files
	WaitUpload Code = "wait-upload"  // the only host that may run it lacks files not uploaded yet
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
	FailScript      Code = "script-failed"
	FailTimeout     Code = "timeout"
	FailCanceled    Code = "canceled"
	FailConflict    Code = "merge-conflict"
	FailInput       Code = "input-lost"        // a required input can't be had
	FailFetch       Code = "fetch-failed"      // or does not arrive
	FailCorrupt     Code = "corrupt-layer"     // or is not what it should be
	FailDiskFull    Code = "disk-full"         //
	FailAttach      Code = "attach-failed"     //
	FailHostLost    Code = "host-lost"         // the lease ended
	FailAgentDied   Code = "agent-died"        // the agent came back without the job
	FailAdapter     Code = "adapter-failed"    //
	FailRetries     Code = "retries-exhausted" // infrastructure failed too often
	FailSource      Code = "checkout-failed"   //
	FailUndelivered Code = "undelivered"       // no runner took the job
	FailDurable     Code = "not-durable"       // a promised durability was not reached
	SkipNeeds       Code = "needs-failed"
	SealUnsupported Code = "unsupported-entry" // job green, no output
	SealFailed      Code = "seal-failed"       // job green, no output
	SealUnchanged   Code = "unchanged"         // commit: if-changed, and nothing was
	SealNever       Code = "commit-never"
)

// Codes of refused calls, in Error.Code.
const (
	CodeFenced       Code = "FENCED"
	CodeNotFound     Code = "NOT_FOUND"
	CodeNameTaken    Code = "NAME_TAKEN"
	CodeUnauthorized Code = "UNAUTHORIZED"
	CodeForbidden    Code = "FORBIDDEN"
	CodeInvalid      Code = "INVALID"
	CodePipeline     Code = "PIPELINE_INVALID"
	CodeConflict     Code = "CONFLICT"
	CodeDigest       Code = "DIGEST_MISMATCH"
	CodeFull         Code = "STORE_FULL"
	CodeInternal     Code = "INTERNAL"
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
