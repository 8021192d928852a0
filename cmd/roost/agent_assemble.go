package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/agent"
	"github.com/roost-ci/roost/agent/pluginhost"
	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/bootid"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer/blob"
)

// assemble opens the store and wires the agent to everything that it needs.
func (o *agentOptions) assemble(ctx context.Context, all configs.Config, client *api.Client, log hclog.Logger, serving func()) (*agent.Agent, func(), error) {
	cfg := all.Agent
	root := os.Geteuid() == 0
	if err := ensureBacking(ctx, cfg.StoreDir, all.Store, log.Named("backing")); err != nil {
		return nil, nil, err
	}
	st, err := store.Open(ctx, cfg.StoreDir, store.Options{
		Driver: func(dir string) (view.Driver, error) {
			return view.Open(all.Store.Driver, dir, view.Options{Log: log.Named("view"), Owners: root, MaxLowers: o.maxLowers})
		},
		Log: log.Named("store"), Owners: root,
	})
	if err != nil {
		return nil, nil, storeError(cfg, err)
	}
	fail := func(code int, err error) (*agent.Agent, func(), error) {
		st.Close() //nolint:errcheck // the first error is the one to tell
		return nil, nil, &exitError{code: code, err: err}
	}
	t, err := o.tuningOf(all)
	if err != nil {
		return fail(exitUsage, err)
	}
	opts := agent.Options{
		Name: cfg.Name, Tags: cfg.Tags, Slots: cfg.Slots, Coordinator: client, Store: st,
		Blobs: blob.NewHTTP(client.BlobsURL(), client.Token, coordinatorHTTP(cfg.Pin)), UploadRate: t.UploadRate,
		BootID: bootid.Read(), Version: version, Ready: serving, Log: log, Room: t.Room, Scrub: t.Scrub,
	}
	if err := adapter(&opts, all, log); err != nil {
		return fail(exitUsage, err)
	}
	a, err := agent.New(opts)
	if err != nil {
		return fail(exitUsage, err)
	}
	return a, func() {
		if err := st.Close(); err != nil {
			log.Error("closing the store", "error", err)
		}
	}, nil
}

// adapter wires what runs the agent's jobs: the host's GitLab runners, or processes of
// this host.
func adapter(opts *agent.Options, all configs.Config, log hclog.Logger) error {
	if all.GitLab.On() {
		return gitlabAdapter(opts, all, log)
	}
	if err := execAdapter(opts, all.Agent, log); err != nil {
		return fmt.Errorf("jobs can't run here: %w", err)
	}
	return nil
}

// execAdapter wires the agent to the plugin that runs jobs as processes. What can be known
// to be wrong is found here, not when the first job comes.
func execAdapter(opts *agent.Options, cfg configs.Agent, log hclog.Logger) error {
	o := exec.Options{
		RootMode: os.Geteuid() == 0 && runtime.GOOS == "linux", RunAs: cfg.RunAs, Hide: []string{cfg.StoreDir},
	}
	var err error
	if o.RunAs, opts.UID, opts.GID, err = exec.Check(o); err != nil {
		return err
	}
	if o.RootMode {
		opts.BuildsDir = cfg.BuildsDir
	}
	dir := filepath.Join(cfg.StoreDir, "exec")
	if runtime.GOOS == "windows" { // where plugins were never tried
		o.StateDir, o.Log = dir, log.Named("exec")
		opts.Adapter, err = exec.New(o)
		return err
	}
	raw, err := json.Marshal(exec.Config{RootMode: o.RootMode, RunAs: o.RunAs, Hide: o.Hide})
	if err != nil {
		return err
	}
	opts.Adapter, err = pluginhost.NewJobs(pluginhost.Options{
		Name:     exec.Name,
		Program:  pluginhost.Program{Args: []string{"plugin", exec.Name}},
		Settings: plugin.Settings{Host: opts.Name, Dir: dir, Config: raw},
		Log:      log.Named("plugin"),
	})
	return err
}

// tuningOf translates what can change while the agent runs.
func (o *agentOptions) tuningOf(cfg configs.Config) (agent.Tuning, error) {
	var (
		t   agent.Tuning
		err error
	)
	if t.UploadRate, err = configs.ParseSize(cfg.Agent.UploadRate); err != nil {
		return t, err
	}
	if t.Room, err = roomOf(cfg.Store); err != nil {
		return t, err
	}
	if t.Scrub, err = scrubOf(cfg.Store); err != nil {
		return t, err
	}
	if cfg.GitLab.On() {
		if t.Pool, err = poolOf(cfg.GitLab); err != nil {
			return t, err
		}
	}
	t.Room.Every, t.Scrub.Every = o.roomEvery, o.roomEvery
	return t, nil
}

// roomOf translates what the file says of the disk.
func roomOf(c configs.Store) (agent.Room, error) {
	most, err := configs.ParseSize(c.MaxBytes)
	if err != nil {
		return agent.Room{}, err
	}
	free, err := configs.ParseSize(c.MinFree)
	if err != nil {
		return agent.Room{}, err
	}
	return agent.Room{MaxBytes: most, High: c.HighWater, Low: c.LowWater, MinFree: free}, nil
}

// scrubOf translates what the file says of looking for damage.
func scrubOf(c configs.Store) (agent.Scrub, error) {
	every, err := time.ParseDuration(c.ScrubInterval)
	if err != nil {
		return agent.Scrub{}, err
	}
	rate, err := configs.ParseSize(c.ScrubRate)
	return agent.Scrub{Interval: every, Rate: rate}, err
}
