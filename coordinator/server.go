package coordinator

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/coordinator/dashboard"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/state"
)

// Server is a coordinator. Open it, Run it once, and it closes itself.
type Server struct {
	o        Options
	log      hclog.Logger
	listener net.Listener
	state    state.Store
	logs     *logs
	hub      hub
	pages    *dashboard.Pages
	router   *router
	secret   []byte // signs the tokens of attempts and sessions
	vault    *vault
	gitlab   *gitlab.Service
	// gitlabURLs are Options.GitLabURLs in their one spelling; outside wakes gitlab.
	gitlabURLs []string
	outside    bell
	asked      int // gitlab's own: whose slot is asked for next

	ops      chan op
	stopping chan struct{} // closed when Run ends: long-polls answer
	stopped  chan struct{} // closed when the loop has ended

	// mu guards world. Only the loop takes it for writing; it is not held while
	// anything waits. Lock order: mu before hub.mu and logs.mu.
	mu     sync.RWMutex
	world  *world
	ticked time.Time // the loop's own
}

// Open takes the state in o.Dir and a listener. A *state.LockedError says that
// another coordinator has the state, an *AddrInUseError that the port is taken, an
// error wrapping snapshot.ErrNewerFormat that a later version wrote the state.
//
// All that was acknowledged before is there again: running attempts go on under a
// lease from now, queued jobs are queued. Nothing happens before Run.
func Open(ctx context.Context, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		o: o, log: o.Log, ops: make(chan op, 1024),
		stopping: make(chan struct{}), stopped: make(chan struct{}),
	}
	if err := s.openGitLab(); err != nil {
		return nil, err
	}
	if s.pages, err = dashboard.New(); err != nil {
		return nil, err
	}
	if s.router, err = newRouter(s); err != nil {
		return nil, err
	}
	st, err := state.OpenSQLite(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	s.state = st
	if err := s.recover(ctx); err != nil {
		st.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	if s.listener, err = listen(ctx, o); err != nil {
		st.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	return s, nil
}

// recover makes the world of the state. Hosts and attempts get their leases anew:
// while the coordinator was away nobody could renew them.
func (s *Server) recover(ctx context.Context) error {
	l, err := s.state.Load(ctx)
	if err != nil {
		return fmt.Errorf("coordinator's state: %w", err)
	}
	if s.secret, err = s.loadSecret(ctx, l.Meta); err != nil {
		return err
	}
	if s.vault, err = openVault(s.o.Dir, s.o.Rand); err != nil {
		return err
	}
	if s.logs, err = openLogs(filepath.Join(s.o.Dir, "logs"), s.o.MaxLog, &s.hub); err != nil {
		return err
	}
	now := s.now()
	s.world = newWorld(l)
	s.ticked = now
	for _, p := range s.world.fleet {
		p.expires = now.Add(s.o.HostLease)
	}
	for id, b := range s.world.beats {
		b.assigned, b.seen = now, now
		if s.world.attempts[id].Stage == state.AttemptRunning {
			b.started = now
		}
	}
	s.log.Info("state loaded", "pipelines", len(s.world.pipelines), "jobs", len(s.world.jobs), "attempts", len(s.world.beats))
	return nil
}

const metaSecret = "secret"

// loadSecret reads the secret that signs tokens, or makes it.
func (s *Server) loadSecret(ctx context.Context, meta map[string]string) ([]byte, error) {
	if b, err := hex.DecodeString(meta[metaSecret]); err == nil && len(b) == 32 {
		return b, nil
	}
	b := make([]byte, 32)
	if _, err := io.ReadFull(s.o.Rand, b); err != nil {
		return nil, err
	}
	return b, s.state.Apply(ctx, &state.Batch{Meta: map[string]string{metaSecret: hex.EncodeToString(b)}})
}

// sign makes a token for a purpose that nobody without the secret can make.
func (s *Server) sign(text string) string {
	m := hmac.New(sha256.New, s.secret)
	m.Write([]byte(text)) //nolint:errcheck // a hash takes everything
	return hex.EncodeToString(m.Sum(nil))
}

func (s *Server) now() time.Time { return s.o.Now() }

// Addr is where the coordinator listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// URL is the address for clients on this machine.
func (s *Server) URL() string {
	if s.o.TLS != nil {
		return "https://" + s.Addr().String()
	}
	return "http://" + s.Addr().String()
}

// Handler serves the interface. Calls that change something wait until Run runs.
func (s *Server) Handler() http.Handler { return s.router }

// Run serves until ctx ends, then answers what is under way and closes everything.
// It returns nil if ctx ended it.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		TLSConfig:         s.o.TLS,
		ErrorLog:          s.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	g, gctx := errgroup.WithContext(ctx)
	// The loop outlives the last answer: those who wait for it must get theirs.
	loopCtx, endLoop := context.WithCancel(context.WithoutCancel(ctx))
	defer endLoop()
	g.Go(func() error { return s.loop(loopCtx) })
	g.Go(func() error {
		err := s.serve(srv)
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		s.gitlab.Run(gctx)
	}()
	g.Go(func() error {
		<-gctx.Done()
		s.drain(asked)
		close(s.stopping)
		defer endLoop()
		quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(quiet) != nil {
			return srv.Close()
		}
		return nil
	})
	err := g.Wait()
	return errors.Join(err, s.logs.close(), s.state.Close())
}

// drain waits for the requests that may bring jobs. Everything else goes on meanwhile.
func (s *Server) drain(asked <-chan struct{}) {
	t, soon := time.NewTimer(s.o.GitLabDrain), time.NewTimer(time.Second)
	defer t.Stop()
	defer soon.Stop()
	select {
	case <-asked:
		return
	case <-soon.C:
		s.log.Info("waiting for requests to GitLab that may bring a job", "limit", s.o.GitLabDrain)
	}
	select {
	case <-asked:
	case <-t.C:
		s.log.Warn("requests to GitLab were given up; a job that they bring fails there when its time is over")
	}
}

func (s *Server) serve(srv *http.Server) error {
	if s.o.TLS != nil {
		return srv.ServeTLS(s.listener, "", "")
	}
	return srv.Serve(s.listener)
}

// Close gives up a server that was opened and is not run.
func (s *Server) Close() error {
	return errors.Join(s.listener.Close(), s.logs.close(), s.state.Close())
}
