package coordinator

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/snapshot"
)

// Options configure a coordinator. Dir, AgentToken and UserToken must be set; the
// zero value of everything else works.
type Options struct {
	// Dir holds the state and the logs. One coordinator at a time may use it.
	Dir string
	// Listener serves if it is set; else one is opened on Addr, "127.0.0.1:0" by
	// default. An address that is not loopback needs TLS.
	Listener net.Listener
	Addr     string
	TLS      *tls.Config

	// AgentToken and UserToken are the bearer tokens of the two roles. They must
	// differ and have 16 characters or more.
	AgentToken, UserToken string
	// HostOf gives the host whose own token that is, "" if it is none: it lets one host in and no
	// other. It is asked at each call, by many at once, so that a token may end at any time.
	// HostTokensOnly says that AgentToken lets nobody in.
	HostOf         func(token string) string
	HostTokensOnly bool

	// Blobs serves /v1/blobs/{digest} with that prefix cut off; without it the
	// answer is 404.
	Blobs http.Handler
	// Missing lists blobs that were found damaged and are wanted again from whoever
	// has them; nil: none. It is asked at each heartbeat.
	Missing func() []snapshot.Digest
	// AllowLocalSource lets pipelines name a work tree on this machine.
	AllowLocalSource bool

	// GitLabURLs are the addresses of the GitLab servers that may be asked for jobs. A
	// host that brings runners of another one is refused.
	GitLabURLs []string
	// GitLabTransport makes the calls to them; nil: a plain one, with GitLabCA (PEM)
	// besides the system's certificates if that is set.
	GitLabTransport http.RoundTripper
	GitLabCA        []byte
	// GitLabDrain is how long Run waits at its end for requests that may bring a job
	// (65 s).
	GitLabDrain time.Duration
	// tune changes the times of the GitLab service in tests.
	tune func(*gitlab.Options)
	// TellGrace is how long a host that ended a job for no fault of its script may take
	// to tell GitLab itself (1 min); then the coordinator does.
	TellGrace time.Duration
	// PipelineIdle is after what time without a job a pipeline of another system is
	// closed (6 h).
	PipelineIdle time.Duration

	Log  hclog.Logger
	Now  func() time.Time
	Rand io.Reader

	// HostLease is how long a host is believed without a heartbeat (30 s), and
	// Heartbeat how often it is told to send one (a tenth of that).
	HostLease, Heartbeat time.Duration
	// AcceptTimeout is how long a claim waits for its host to take it (10 s).
	AcceptTimeout time.Duration
	// HolderGrace is how long a job waits for a host that is lost and has the only
	// copy of its files (5 min).
	HolderGrace time.Duration
	// QueueTimeout is how long a job may wait for a host (24 h).
	QueueTimeout time.Duration
	// MaxInfraRetries is how often a job is tried again that failed for no fault
	// of its own: 3, or none if negative.
	MaxInfraRetries int
	// MaxLog is how many bytes of an attempt's log are kept (64 MiB).
	MaxLog int64
	// MaxChain is the number of layers beyond which a seed is not used any more
	// (64): a line that never starts anew would grow for ever.
	MaxChain int
	// Version is shown on the status page.
	Version string
}

// minToken is the least length of a token: 64 bits in hexadecimal.
const minToken = 16

// withDefaults fills in what is zero and refuses what can't work.
func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("coordinator: no directory for its state")
	}
	if len(o.AgentToken) < minToken || len(o.UserToken) < minToken || o.AgentToken == o.UserToken {
		return o, fmt.Errorf("coordinator: want two different tokens of %d characters or more", minToken)
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	o.defaultTimes()
	if o.MaxInfraRetries == 0 {
		o.MaxInfraRetries = 3
	}
	if o.MaxLog <= 0 {
		o.MaxLog = 64 << 20
	}
	if o.MaxChain <= 0 {
		o.MaxChain = 64
	}
	return o, nil
}

// defaultTimes fills in the durations that are zero.
func (o *Options) defaultTimes() {
	for _, d := range []struct {
		v *time.Duration
		n time.Duration
	}{
		{&o.HostLease, 30 * time.Second},
		{&o.AcceptTimeout, 10 * time.Second},
		{&o.HolderGrace, 5 * time.Minute},
		{&o.QueueTimeout, 24 * time.Hour},
		{&o.GitLabDrain, 65 * time.Second},
		{&o.PipelineIdle, 6 * time.Hour},
		{&o.TellGrace, time.Minute},
	} {
		if *d.v <= 0 {
			*d.v = d.n
		}
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = o.HostLease / 10
	}
}

// AddrInUseError says that something listens on the address already.
type AddrInUseError struct {
	Addr string
	Err  error
}

func (e *AddrInUseError) Error() string {
	return fmt.Sprintf("something listens on %s already, perhaps another coordinator: stop it or choose another address", e.Addr)
}

func (e *AddrInUseError) Unwrap() error { return e.Err }

// ErrExposed says that a listener beyond loopback was asked for without TLS.
var ErrExposed = errors.New("refusing to listen beyond loopback without TLS")

// listen opens the listener that o asks for.
func listen(ctx context.Context, o Options) (net.Listener, error) {
	l := o.Listener
	if l == nil {
		if err := checkAddr(o.Addr, o.TLS != nil); err != nil {
			return nil, err
		}
		var err error
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", o.Addr); err != nil {
			if errors.Is(err, errInUse) {
				return nil, &AddrInUseError{Addr: o.Addr, Err: err}
			}
			return nil, fmt.Errorf("listen on %s: %w", o.Addr, err)
		}
	}
	if t, ok := l.Addr().(*net.TCPAddr); ok && !t.IP.IsLoopback() && o.TLS == nil {
		if o.Listener == nil {
			l.Close() //nolint:errcheck // the first error is the one to tell
		}
		return nil, fmt.Errorf("%s: %w", l.Addr(), ErrExposed)
	}
	return l, nil
}

// checkAddr refuses an address beyond loopback before anything is opened there.
func checkAddr(addr string, secure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: %w", addr, err)
	}
	ip := net.ParseIP(host)
	if secure || host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("%s: %w", addr, ErrExposed)
}
