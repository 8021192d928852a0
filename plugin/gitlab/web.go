package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
)

// web is the endpoint's listeners.
type web struct {
	srv    *http.Server
	failed chan error
}

// listen opens all addresses. A bridge's address may come up after us, so that one which is
// not there yet is tried again; loopback must be.
func (s *service) listen(ctx context.Context) (*web, error) {
	w := &web{failed: make(chan error, 1)}
	w.srv = &http.Server{
		Handler:           http.HandlerFunc(s.ServeHTTP),
		ReadHeaderTimeout: 10 * time.Second,
		// The runner closes idle connections after 15 minutes; it should be the one.
		IdleTimeout:    20 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       s.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		ConnContext:    withConn,
		BaseContext:    func(net.Listener) context.Context { return s.life },
	}
	var addrs []net.Addr
	if s.customs != nil { // its runner has the real token and speaks with GitLab
		srv, err := s.customs.listen(ctx)
		if err != nil {
			return nil, err
		}
		w.srv = srv
		if s.o.Listening != nil {
			s.o.Listening(nil)
		}
		return w, nil
	}
	for _, a := range s.cfg.Listen {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a)
		if err == nil {
			addrs = append(addrs, l.Addr())
			s.accept(w, l)
			continue
		}
		if ip, perr := netip.ParseAddrPort(a); perr != nil || ip.Addr().IsLoopback() {
			w.srv.Close() //nolint:errcheck // the first error is the one to tell
			return nil, fmt.Errorf("gitlab: %w", err)
		}
		s.log.Warn("an address is not there yet; trying again", "listen", a, "error", err)
		s.spawn(func(ctx context.Context) { s.listenLater(ctx, w, a) })
	}
	if s.o.Listening != nil {
		s.o.Listening(addrs)
	}
	return w, nil
}

func (s *service) listenLater(ctx context.Context, w *web, addr string) {
	for pause.For(ctx, 3*time.Second) == nil {
		if l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr); err == nil {
			s.accept(w, l)
			return
		}
	}
}

func (s *service) accept(w *web, l net.Listener) {
	s.work.Go(func() {
		if t, ok := l.(*net.TCPListener); ok {
			l = trackedListener{t}
		}
		if err := w.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			select {
			case w.failed <- fmt.Errorf("gitlab: %s: %w", l.Addr(), err):
			default:
			}
		}
	})
}

// shutdown waits for calls under way until ctx ends.
func (w *web) shutdown(ctx context.Context) {
	if w.srv.Shutdown(ctx) != nil {
		w.srv.Close() //nolint:errcheck // the process ends
	}
}

// ServeHTTP is the whole of what runners see.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt, err := parseRoute(r.Method, r.RequestURI)
	if err != nil {
		refuse(w, http.StatusNotFound, err.Error())
		return
	}
	if rt.job != "" {
		s.jobCall(w, r, rt)
		return
	}
	sl := s.slots[rt.slot]
	if sl == nil {
		refuse(w, http.StatusNotFound, "no such slot")
		return
	}
	switch rt.call {
	case callRequest:
		s.request(w, r, sl)
	case callVerify:
		s.verify(w, r, sl)
	case callDiscovery:
		// No job router: with it the runner would speak to GitLab past us.
		refuse(w, http.StatusNotImplemented, "no job router")
	case callReset:
		refuse(w, http.StatusForbidden, "this token is local to the host and does not expire; the real one is in the configuration of roost")
	default:
		refuse(w, http.StatusForbidden, "this would remove the runner for all hosts; run `roost uninstall gitlab` instead")
	}
}

// tracked knows when a connection ends, also between requests: a runner that goes right
// after an answer left for it may not have got it.
type tracked struct {
	*net.TCPConn // with its ReadFrom, which streams use
	once         *sync.Once
	closed       chan struct{}
}

func (c *tracked) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}

type trackedListener struct{ *net.TCPListener }

func (l trackedListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return &tracked{TCPConn: c, once: new(sync.Once), closed: make(chan struct{})}, nil
}

// connKey finds a request's connection in its context.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tracked); ok {
		return context.WithValue(ctx, connKey{}, t)
	}
	return ctx
}
