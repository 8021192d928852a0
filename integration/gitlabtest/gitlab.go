package gitlabtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Options are what differs from one GitLab to another. The zero value is a recent
// one with live traces, no long poll and no two-phase commit.
type Options struct {
	// TwoPhase is the server's flag allow_runner_job_acknowledgement (1.2).
	TwoPhase bool
	// AckExpiry is how long a job waits for its acknowledgement. 0: 2 minutes.
	AckExpiry time.Duration
	// LongPoll is how long a request for a job is held while nothing changed. 0: not at
	// all, as without Workhorse.
	LongPoll time.Duration
	// UpdateInterval is sent as X-GitLab-Trace-Update-Interval, in whole seconds. 0: 3 s.
	UpdateInterval time.Duration
	// TokenLife is how long a job's token is good beyond the job's timeout. 0: 5 minutes.
	TokenLife time.Duration
	// Flush is how often a final report is answered 202 first, while the log is
	// being put away.
	Flush int
	// Verify says that a log that differs from its checksum is answered 412, as by
	// servers that check it. Without, it is only written down.
	Verify bool
	// RunningToken says that dependencies carry the running job's token.
	RunningToken bool
	// OldPayload leaves out what came with 18.4 and later: job_info's ids and
	// git_info.protected.
	OldPayload bool
	// PlainVerify answers verify with the text of old servers.
	PlainVerify bool
	// DirectDownload sends downloads that ask for it to object storage by 302.
	DirectDownload bool
	// Prefix is a path in front of everything, such as "/gitlab".
	Prefix string
	// Listen is the address to serve at. "": a free port of loopback.
	Listen string
	// Break are rules of a server that it doesn't keep.
	Break []Rule
	// Now is the clock; nil is time.Now. What waits (LongPoll) waits in real time.
	Now func() time.Time
}

// GitLab is a running server. All its methods may be called from everywhere.
type GitLab struct {
	o    Options
	dir  string // repositories and artifacts
	addr string
	url  string

	// mu guards all below. No request is read or answered under it. changed is closed and
	// made anew at each change of a job.
	mu        sync.Mutex
	server    *http.Server
	changed   chan struct{}
	projects  map[int64]*Project
	runners   map[string]*Runner
	pipelines map[int64]*Pipeline
	jobs      map[int64]*job
	lastID    int64
	queue     int64 // the value of the runners' queues: it goes up when a job becomes pending
	apiTokens map[string]bool
	faults    []*Fault
	calls     []Call
	redirect  string
}

// New starts a GitLab that ends with t.
func New(t testing.TB, o Options) *GitLab {
	t.Helper()
	g, err := Start(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Down)
	return g
}

// Start starts a GitLab with its files in dir. The caller ends it with Down.
func Start(dir string, o Options) (*GitLab, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	for d, v := range map[*time.Duration]time.Duration{
		&o.AckExpiry: 2 * time.Minute, &o.UpdateInterval: 3 * time.Second, &o.TokenLife: 5 * time.Minute,
	} {
		if *d == 0 {
			*d = v
		}
	}
	g := &GitLab{
		o: o, dir: dir, addr: o.Listen, changed: make(chan struct{}), lastID: 1000,
		projects: map[int64]*Project{}, runners: map[string]*Runner{}, pipelines: map[int64]*Pipeline{},
		jobs: map[int64]*job{}, apiTokens: map[string]bool{},
	}
	return g, g.Up()
}

// URL is where it serves, with its prefix and without a slash at the end.
func (g *GitLab) URL() string { return g.url }

// Up serves again after Down, at the same address.
func (g *GitLab) Up() error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", g.addr)
	if err != nil {
		return err
	}
	g.addr = l.Addr().String()
	g.url = "http://" + g.addr + g.o.Prefix
	s := &http.Server{Handler: g.handler(), ReadHeaderTimeout: time.Minute}
	g.mu.Lock()
	g.server = s
	g.mu.Unlock()
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()
	return nil
}

// Down breaks all connections and refuses new ones. What was known stays known.
func (g *GitLab) Down() {
	g.mu.Lock()
	s := g.server
	g.server = nil
	g.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

func (g *GitLab) handler() http.Handler {
	m := http.NewServeMux()
	api := func(pattern string, h http.HandlerFunc) {
		m.Handle(pattern, g.faulty(pattern, h))
	}
	api("POST /api/v4/runners/verify", g.serveVerify)
	api("POST /api/v4/runners/reset_authentication_token", g.serveReset)
	api("DELETE /api/v4/runners", g.serveUnregister)
	api("DELETE /api/v4/runners/managers", g.serveUnregister)
	api("GET /api/v4/runners/router/discovery", g.serveDiscovery)
	api("POST /api/v4/jobs/request", g.serveRequest)
	api("PUT /api/v4/jobs/{id}", g.serveUpdate)
	api("PATCH /api/v4/jobs/{id}/trace", g.serveTrace)
	api("POST /api/v4/jobs/{id}/artifacts", g.serveUpload)
	api("GET /api/v4/jobs/{id}/artifacts", g.serveDownload)
	api("GET /api/v4/job", g.serveWhose)
	api("GET /storage/{id}", g.serveStorage)
	api("GET /api/v4/projects/{project}/pipelines/{pipeline}/jobs", g.servePipelineJobs)
	api("GET /api/v4/projects/{project}/pipelines/{pipeline}", g.servePipeline)
	api("/", g.serveGit)
	return http.StripPrefix(g.o.Prefix, m)
}

// notifyLocked wakes whoever waits for a change.
func (g *GitLab) notifyLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// nextLocked gives an id that nothing else has.
func (g *GitLab) nextLocked() int64 {
	g.lastID++
	return g.lastID
}

// Wait waits until ok, called with nothing changing, says true.
func (g *GitLab) Wait(ctx context.Context, ok func() bool) error {
	for {
		g.mu.Lock()
		c := g.changed
		done := ok()
		g.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("waiting for GitLab: %w", context.Cause(ctx))
		}
	}
}

func (g *GitLab) path(elem ...string) string {
	return filepath.Join(append([]string{g.dir}, elem...)...)
}
