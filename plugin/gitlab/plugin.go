package gitlab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// Name is the plugin's word in configuration.
const Name = "gitlab"

// Options are what a plugin may be given instead of the real thing. The zero value works.
type Options struct {
	Version string
	// Now is the clock for ages and deadlines.
	Now func() time.Time
	// Transport reaches GitLab. Default: HTTP/1.1 over TLS with Config.CAFile.
	Transport http.RoundTripper
	// Rand spreads retries.
	Rand io.Reader
	Log  hclog.Logger
	// Listening, if set, is told the addresses once they are open.
	Listening func([]net.Addr)
}

// Plugin implements plugin.Plugin.
type Plugin struct {
	o Options

	// mu guards s, which Serve sets once its records are read. ready is closed then.
	mu    sync.Mutex
	s     *service
	ready chan struct{}
}

var _ plugin.Plugin = (*Plugin)(nil)

// New makes a plugin that does nothing until Serve.
func New(o Options) *Plugin {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	return &Plugin{o: o, ready: make(chan struct{})}
}

// Describe implements plugin.Plugin.
func (p *Plugin) Describe(context.Context) (plugin.Description, error) {
	return plugin.Description{Name: Name, Version: p.o.Version, Contract: plugin.Contract}, nil
}

// Serve implements plugin.Plugin. One process at a time may use Settings.Dir.
func (p *Plugin) Serve(ctx context.Context, set plugin.Settings, a plugin.Agent) error {
	s, err := newService(ctx, p.o, set, a)
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.s != nil {
		p.mu.Unlock()
		return errors.New("gitlab: served already")
	}
	p.s = s
	p.mu.Unlock()
	close(p.ready)
	return s.serve(ctx)
}

// Lost implements plugin.Plugin. It waits for Serve to have read its records.
func (p *Plugin) Lost(ctx context.Context, attempt snapshot.ID, why string) error {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return fmt.Errorf("gitlab: not serving yet: %w", ctx.Err())
	}
	return p.s.lost(attempt, why)
}
