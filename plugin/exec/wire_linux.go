package exec

// The adapter and a job's supervisor talk JSON over a socket pair. The adapter
// sends one setup, then any number of starts and signals; the end of the stream
// means: kill everything and exit. The supervisor answers setup with ready, each
// start with started, and reports each shell's end and each time that it has no
// process left.

// toChild is one message to the supervisor.
type toChild struct {
	Setup *setup `json:"setup,omitempty"`
	Start *start `json:"start,omitempty"`
	// Signal is for every process of the job.
	Signal int `json:"signal,omitempty"`
}

// setup says where the job lives.
type setup struct {
	// Binds are made in order, in a mount namespace that is the supervisor's own.
	// Nil: no namespace.
	Binds []bind   `json:"binds,omitempty"`
	Hide  []string `json:"hide,omitempty"`
	// User is nil to stay who we are.
	User   *identity `json:"user,omitempty"`
	Cgroup string    `json:"cgroup,omitempty"`
	Shell  string    `json:"shell"`
	Dir    string    `json:"dir"`
}

// bind shows From at To.
type bind struct{ From, To string }

// start is one shell to start. Script is bytes: it need not be UTF-8.
type start struct {
	Script []byte   `json:"script"`
	Env    [][]byte `json:"env"`
}

// fromChild is one message from the supervisor.
type fromChild struct {
	Ready   bool   `json:"ready,omitempty"`
	Started int    `json:"started,omitempty"` // its pid
	Error   string `json:"error,omitempty"`   // of setup or start
	Ended   *ended `json:"ended,omitempty"`
	Idle    bool   `json:"idle,omitempty"`
}

// childName is argv[0] of a supervisor. Whoever starts us under this name with a
// socket of his own at descriptor 3 gets what he asks for with no more rights
// than he had.
const childName = "roost-job"
