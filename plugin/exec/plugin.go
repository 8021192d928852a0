package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// Name is the plugin's word.
const Name = "exec"

// Config is Settings.Config of the plugin: the part of Options that its agent decides.
type Config struct {
	RootMode bool     `json:"root_mode,omitempty"`
	RunAs    string   `json:"run_as,omitempty"`
	Hide     []string `json:"hide,omitempty"`
}

// Plugin implements plugin.Runner: it is an Adapter in a process of its own. Its state
// is in Settings.Dir.
type Plugin struct {
	version string
	log     hclog.Logger
	edit    func(*Options) // tests

	// a is set when ready is closed, which Serve does.
	a     *Adapter
	ready chan struct{}
}

var _ plugin.Runner = (*Plugin)(nil)

// NewPlugin makes a plugin that runs nothing until Serve. main must have called
// MaybeChild before.
func NewPlugin(version string, log hclog.Logger) *Plugin {
	return &Plugin{version: version, log: log, edit: func(*Options) {}, ready: make(chan struct{})}
}

// Describe implements plugin.Plugin.
func (p *Plugin) Describe(context.Context) (plugin.Description, error) {
	return plugin.Description{Name: Name, Version: p.version, Contract: plugin.Contract, Runs: true}, nil
}

// Serve implements plugin.Plugin. One process at a time may use Settings.Dir.
func (p *Plugin) Serve(ctx context.Context, s plugin.Settings, _ plugin.Agent) error {
	var c Config
	if err := json.Unmarshal(s.Config, &c); err != nil {
		return fmt.Errorf("exec: its configuration: %w", err)
	}
	o := Options{RootMode: c.RootMode, RunAs: c.RunAs, Hide: c.Hide, StateDir: s.Dir, Log: p.log, agent: os.Getppid()}
	p.edit(&o)
	a, err := New(o)
	if err != nil {
		return err
	}
	p.a = a
	close(p.ready)
	<-ctx.Done()
	return nil
}

// Lost implements plugin.Plugin. There is nothing to lose: its attempts are the
// agent's calls of Run.
func (p *Plugin) Lost(context.Context, snapshot.ID, string) error { return nil }

// Run implements plugin.Runner.
func (p *Plugin) Run(ctx context.Context, job plugin.Job, log io.Writer) (plugin.Result, error) {
	// Not ctx: a job that is canceled before it began ends as one that was.
	<-p.ready
	return p.a.join(ctx, job, log)
}

// Kill implements plugin.Runner.
func (p *Plugin) Kill(ctx context.Context, attempt snapshot.ID) error {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return errors.Join(errors.New("exec: not serving yet"), ctx.Err())
	}
	return p.a.Kill(ctx, attempt)
}
