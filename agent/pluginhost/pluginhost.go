// Package pluginhost keeps a plugin running for an agent: it checks the program, starts
// it with a clean environment, starts it again when it dies, and ends it. Mounts,
// leases and jobs are the agent's, so that nothing is lost with a plugin; a plugin
// that was started anew asks plugin.Agent.Held. One that still runs is never
// attached to: it dies with its agent.
package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire"
	"github.com/roost-ci/roost/snapshot"
)

// Options say which plugin is run, and for whom. Agent and Settings.Dir must be set.
type Options struct {
	// Name, if set, is what the plugin must call itself.
	Name     string
	Program  Program
	Settings plugin.Settings
	// User, if set, is the user that the plugin runs as: a name or a number. The
	// agent must be root then, and Settings.Dir lie where that user may pass.
	User  string
	Agent plugin.Agent
	// Grace is how long the plugin may take to stop serving once Run's context
	// has ended. Then it is killed. Default 30 s.
	Grace   time.Duration
	Restart Restart
	// Started, if set, is called each time when a process is about to serve.
	Started func(d plugin.Description, pid int)
	Log     hclog.Logger
	Now     func() time.Time

	runs bool // it must be a plugin.Runner
}

// Restart says how long to wait before a plugin that ended is started again: First,
// then twice as long each time, at most Most; First again after one that ran for Steady.
type Restart struct {
	First  time.Duration // default 200 ms
	Most   time.Duration // default 30 s
	Steady time.Duration // default 1 min
}

// ErrName says that the program is another plugin than the one that was configured.
var ErrName = errors.New("another plugin than the configured one")

// Host keeps one plugin running.
type Host struct {
	o    Options
	user *wire.User
	lost losses
	up   upness

	sockets string // where they are now; Run's alone
}

// New checks the options. It starts nothing and touches no disk.
func New(o Options) (*Host, error) {
	switch {
	case o.Agent == nil:
		return nil, errors.New("plugin host: no agent")
	case !filepath.IsAbs(o.Settings.Dir):
		return nil, fmt.Errorf("plugin host: directory %q: want an absolute path", o.Settings.Dir)
	}
	if err := o.Program.valid(); err != nil {
		return nil, fmt.Errorf("plugin host: %w", err)
	}
	user, err := findUser(o.User)
	if err != nil {
		return nil, fmt.Errorf("plugin host: %w", err)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Grace, 30*time.Second)
	def(&o.Restart.First, 200*time.Millisecond)
	def(&o.Restart.Most, 30*time.Second)
	def(&o.Restart.Steady, time.Minute)
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Settings.Slots = slices.Clone(o.Settings.Slots)
	return &Host{o: o, user: user, lost: newLosses(o.Log), up: upness{again: make(chan struct{})}}, nil
}

// Run runs the plugin until ctx ends and returns nil then; no process of it is left. An
// error says that the program must not or can't be this plugin, now and later:
// ErrPin, ErrWritable, ErrName, ErrNoRunner, wire.ErrContract. It is called once.
func (h *Host) Run(ctx context.Context) error {
	if err := h.makeDir(); err != nil {
		return err
	}
	defer h.removeSockets()
	ends := pause.Tries{Backoff: pause.Backoff{First: h.o.Restart.First, Most: h.o.Restart.Most}}
	for {
		began := h.o.Now()
		err := h.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if final(err) {
			return err
		}
		if h.o.Now().Sub(began) >= h.o.Restart.Steady {
			ends.Reset()
		}
		wait := ends.Next()
		h.o.Log.Error("plugin ended, it is started again", "error", err, "in", wait)
		if pause.For(ctx, wait) != nil {
			return nil
		}
	}
}

func final(err error) bool {
	for _, e := range []error{ErrPin, ErrWritable, ErrName, ErrNoRunner, wire.ErrContract} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// once runs one process to its end.
func (h *Host) once(ctx context.Context) error {
	p, err := h.start(ctx)
	if err != nil {
		return err
	}
	defer p.Kill()
	d := p.Description
	if h.o.Name != "" && d.Name != h.o.Name {
		return fmt.Errorf("%w: it is %.60q, not %q", ErrName, d.Name, h.o.Name)
	}
	if h.o.runs && !d.Runs {
		return fmt.Errorf("%w: %.60q", ErrNoRunner, d.Name)
	}
	h.o.Log.Info("plugin started", "plugin", d.Name, "version", d.Version, "pid", p.Pid())
	if h.o.Started != nil {
		h.o.Started(d, p.Pid())
	}
	var wg sync.WaitGroup
	telling, enough := context.WithCancel(ctx)
	defer wg.Wait()
	defer enough()
	served := make(chan error, 1)
	go func() { served <- p.Plugin.Serve(ctx, h.o.Settings, &guard{Agent: h.o.Agent, h: h}) }()
	wg.Go(func() { h.lost.tell(telling, h.o.Agent, p.Plugin) })
	if r, ok := p.Plugin.(plugin.Runner); ok {
		h.up.set(&process{runner: r, gone: p.Done()})
	}
	select {
	case err = <-served:
	case <-ctx.Done():
		err = h.end(p, served)
	}
	if err == nil && ctx.Err() == nil {
		err = errors.New("it stopped serving by itself")
	}
	p.Kill()
	<-p.Done()
	if err != nil {
		return fmt.Errorf("plugin %s: %w (%s)", d.Name, err, p.Exit())
	}
	return nil
}

// end waits until a plugin that was told to stop has done so.
func (h *Host) end(p *wire.Process, served <-chan error) error {
	select {
	case err := <-served:
		return err
	case <-time.After(h.o.Grace):
		h.o.Log.Warn("plugin does not stop, it is killed", "after", h.o.Grace)
		p.KillNow()
		return <-served
	}
}

func (h *Host) start(ctx context.Context) (*wire.Process, error) {
	prog, err := h.o.Program.open()
	if err != nil {
		return nil, err
	}
	defer prog.close()
	sockets, err := h.makeSockets()
	if err != nil {
		return nil, err
	}
	p, err := wire.Start(ctx, wire.Command{
		Path: prog.path, Args: append([]string{prog.name}, h.o.Program.Args...),
		Env: h.environment(), Dir: h.o.Settings.Dir, Sockets: sockets, User: h.user, Log: h.o.Log,
	})
	if err != nil {
		return nil, err
	}
	if err := prog.unchanged(); err != nil {
		p.KillNow()
		p.Kill()
		return nil, err
	}
	return p, nil
}

// guard stands between plugin and agent.
type guard struct {
	plugin.Agent
	h *Host
}

// Claim refuses slots that are not the plugin's.
func (g *guard) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	if !slices.Contains(g.h.o.Settings.Slots, o.Slot) {
		return nil, fmt.Errorf("%w: slot %d is not the plugin's", plugin.ErrInvalid, o.Slot)
	}
	return g.Agent.Claim(ctx, o)
}

func (g *guard) Seal(ctx context.Context, s plugin.SealRequest) (*plugin.Sealed, error) {
	out, err := g.Agent.Seal(ctx, s)
	if err == nil {
		g.h.lost.forget(s.Attempt)
	}
	return out, err
}

func (g *guard) Discard(ctx context.Context, d plugin.DiscardRequest) error {
	err := g.Agent.Discard(ctx, d)
	if err == nil {
		g.h.lost.forget(d.Attempt)
	}
	return err
}

// Lost tells the plugin that an attempt is not this host's any more. It returns at once
// and never fails: the plugin is told when it runs, again until it has understood, and again
// each time it was started anew, until the attempt is discarded.
func (h *Host) Lost(_ context.Context, attempt snapshot.ID, why string) error {
	h.lost.add(attempt, why)
	return nil
}
