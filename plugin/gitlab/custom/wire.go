// Package custom is the near end of the custom executor: what `roost gitlab-custom
// config|prepare|run|cleanup` does when GitLab Runner calls it. The far end is the
// plugin's socket. A plugin that does not answer costs a job its workspace and
// nothing else, unless the job needs it.
package custom

// Calls on the socket, by POST with a Request; the answer is an Answer.
const (
	PathConfig  = "/config"
	PathStage   = "/stage"
	PathCleanup = "/cleanup"
)

// Request is what the executor says. The payload shows whose job it speaks of: its
// token is compared.
type Request struct {
	Payload []byte `json:"payload"`
	// Slot is the slot to use, 0 for any that is free.
	Slot  int    `json:"slot,omitempty"`
	Stage string `json:"stage,omitempty"`
	// Exit is the stage's exit status, -1 when it begins.
	Exit int `json:"exit,omitempty"`
}

// Answer is what the executor hears.
type Answer struct {
	// State is that of the workspace, "" if there is none and Reason says why.
	State string `json:"state,omitempty"`
	View  string `json:"view,omitempty"`
	// Lines are for the job's log.
	Lines []string          `json:"lines,omitempty"`
	Env   map[string]string `json:"env,omitempty"`
	// Refused: the job needs a workspace and can't have it.
	Refused bool   `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"`
}
