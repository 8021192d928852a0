package exec

import (
	"encoding/gob"
	"net"
	"sync"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// A job's supervisor listens on a socket in the job's directory. An adapter, the one that
// started it or one that came after, connects and sends the job; the first to arrive is
// run. From then on the supervisor needs nobody: it gives its output, each piece again until
// it was got, and its result to whoever is connected last. Bye makes it kill everything
// and end; so does the end of the agent.

// toChild is one message to the supervisor.
type toChild struct {
	Job *work
	// From goes with Job: the output up to there has been got.
	From int64
	Got  int64
	Stop bool // alone, or with Job: before it begins
	Bye  bool
}

// work is a job, and where it lives. Strings need not be UTF-8.
type work struct {
	Job plugin.Job
	// Binds are made in order, in a mount namespace that is the supervisor's own.
	// Nil: no namespace.
	Binds []bind
	Hide  []string
	User  identity
	// Switch says that the shells become User; else that is who we are.
	Switch              bool
	Cgroup, Shell, Path string
	Home, Tmp           string // as the job sees them
	SourceTimeout       time.Duration
}

// bind shows From at To.
type bind struct{ From, To string }

// fromChild is one message from the supervisor.
type fromChild struct {
	Output []byte
	At     int64 // the first byte's number
	// Result is the last message, or Error: nothing of the job has run then.
	Result *plugin.Result
	Error  string
	// Gone answers Bye: nothing is left.
	Gone bool
}

// peer is a connection between the two. Several goroutines may send, one receives.
type peer struct {
	c   net.Conn
	dec *gob.Decoder
	mu  sync.Mutex
	enc *gob.Encoder
}

func newPeer(c net.Conn) *peer {
	return &peer{c: c, dec: gob.NewDecoder(c), enc: gob.NewEncoder(c)}
}

func (p *peer) send(m any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.Encode(m)
}

func (p *peer) close() { p.c.Close() } //nolint:errcheck // a socket

// childName is argv[0] of a supervisor. Whoever starts us under this name with a
// socket of his own at descriptor 3 gets what he asks for with no more rights
// than he had.
const childName = "roost-job"

// Descriptors of a supervisor: where it listens, and what can be read from once the
// agent has gone.
const (
	fdListen = 3
	fdAgent  = 4
)
