package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/agent"
	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer/blob"
)

type agentOptions struct {
	service
	set       configs.Agent // what flags said
	store     configs.Store // what the file said
	driver    string        // what a flag said
	maxLowers int
	roomEvery time.Duration
}

func newAgent() *cobra.Command {
	var o agentOptions
	c := &cobra.Command{
		Use:   "agent",
		Short: "Serve as a host's agent: keep workspaces and run jobs in them",
		Long: `Runs the agent of this host until it is stopped. On SIGTERM it cancels its jobs,
which run again elsewhere or later, finishes its uploads within a bound and says
good-bye. Flags win over the configuration file.` + exitHelp,
		Example: "  roost agent --config /etc/roost/roost.toml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&o.set.Name, "name", "", "name of this host (agent.name)")
	f.StringVar(&o.set.Coordinator, "coordinator", "", "URL of the coordinator (agent.coordinator)")
	f.StringVar(&o.set.TokenFile, "token-file", "", "file with the agent's token (agent.token_file)")
	f.IntVar(&o.set.Slots, "slots", 0, "jobs at once (agent.slots)")
	f.StringSliceVar(&o.set.Tags, "tags", nil, "tags of this host (agent.tags)")
	f.StringVar(&o.set.StoreDir, "store-dir", "", "directory of the workspaces (agent.store_dir)")
	f.StringVar(&o.driver, "driver", "", "how views are made: "+strings.Join(configs.Drivers, ", ")+" (store.driver)")
	f.StringVar(&o.set.BuildsDir, "builds-dir", "", "where jobs see their workspace (agent.builds_dir)")
	f.StringVar(&o.set.RunAs, "run-as", "", "user that jobs run as (agent.run_as)")
	f.IntVar(&o.maxLowers, "max-lowers", 0, "flatten a view that stands on more layers than this")
	f.DurationVar(&o.roomEvery, "room-every", 0, "look so often whether the store has room")
	f.MarkHidden("room-every") //nolint:errcheck // as below
	f.MarkHidden("max-lowers") //nolint:errcheck // the flag exists, one line above; tests flatten early
	return c
}

// configure merges file and flags.
func (o *agentOptions) configure() (configs.Agent, error) {
	cfg, err := loadConfig(o.config)
	if err != nil {
		return configs.Agent{}, err
	}
	a := &cfg.Agent
	for _, f := range []struct{ to, from *string }{
		{&a.Name, &o.set.Name},
		{&a.Coordinator, &o.set.Coordinator},
		{&a.TokenFile, &o.set.TokenFile},
		{&a.StoreDir, &o.set.StoreDir},
		{&cfg.Store.Driver, &o.driver},
		{&a.BuildsDir, &o.set.BuildsDir},
		{&a.RunAs, &o.set.RunAs},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if o.set.Slots != 0 {
		a.Slots = o.set.Slots
	}
	a.Tags = append(a.Tags, o.set.Tags...)
	if a.Name == "" {
		if a.Name, err = os.Hostname(); err != nil {
			return *a, usageError(fmt.Errorf("agent.name is not set and the host has none: %w", err), "")
		}
	}
	if a.Slots == 0 {
		a.Slots = max(1, runtime.NumCPU()/2)
	}
	if err := cfg.Validate(); err != nil {
		return *a, usageError(err, "see: roost config reference")
	}
	if a.StoreDir, err = filepath.Abs(a.StoreDir); err != nil {
		return *a, usageError(err, "")
	}
	o.store = cfg.Store
	return *a, nil
}

func (o *agentOptions) run(cmd *cobra.Command) error {
	cfg, err := o.configure()
	if err != nil {
		return err
	}
	token, err := readToken(cfg.TokenFile)
	if err != nil {
		return usageError(err, "the coordinator makes it at its first start: STATE_DIR/agent.token")
	}
	client, err := api.NewClient(cfg.Coordinator, token, nil)
	if err != nil {
		return usageError(err, "")
	}
	ctx, log, err := o.start(cmd, cfg.Name)
	if err != nil {
		return err
	}
	a, closeStore, err := o.assemble(ctx, cfg, client, log, func() {
		if err := sayReady(cmd.OutOrStdout(), ready{Ready: "agent"}); err != nil {
			log.Warn("telling the parent process", "error", err)
		}
	})
	if err != nil {
		return err
	}
	defer closeStore()
	return agentError(ctx, cfg, a.Run(ctx))
}

// assemble opens the store and wires the agent to everything that it needs.
func (o *agentOptions) assemble(ctx context.Context, cfg configs.Agent, client *api.Client, log hclog.Logger, serving func()) (*agent.Agent, func(), error) {
	root := os.Geteuid() == 0
	if err := ensureBacking(ctx, cfg.StoreDir, o.store, log.Named("backing")); err != nil {
		return nil, nil, err
	}
	st, err := store.Open(ctx, cfg.StoreDir, store.Options{
		Driver: func(dir string) (view.Driver, error) {
			return view.Open(o.store.Driver, dir, view.Options{Log: log.Named("view"), Owners: root, MaxLowers: o.maxLowers})
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
	linuxRoot := root && runtime.GOOS == "linux"
	runner, err := exec.New(exec.Options{
		RootMode: linuxRoot, RunAs: cfg.RunAs, StateDir: filepath.Join(cfg.StoreDir, "exec"),
		Hide: []string{cfg.StoreDir}, Log: log.Named("exec"),
	})
	if err != nil {
		return fail(exitUsage, fmt.Errorf("jobs can't run here: %w", err))
	}
	rate, err := configs.ParseSize(cfg.UploadRate)
	if err != nil {
		return fail(exitUsage, err)
	}
	room, err := roomOf(o.store)
	if err != nil {
		return fail(exitUsage, err)
	}
	room.Every = o.roomEvery
	scrub, err := scrubOf(o.store)
	if err != nil {
		return fail(exitUsage, err)
	}
	scrub.Every = o.roomEvery
	opts := agent.Options{
		Name: cfg.Name, Tags: cfg.Tags, Slots: cfg.Slots, Coordinator: client, Store: st, Adapter: runner,
		Blobs: blob.NewHTTP(client.BlobsURL(), client.Token, nil), UploadRate: rate,
		BootID: bootID(), Version: version, Ready: serving, Log: log, Room: room, Scrub: scrub,
	}
	if linuxRoot {
		opts.BuildsDir = cfg.BuildsDir
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

// bootID names this run of the kernel, "" where it has no name.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func storeError(cfg configs.Agent, err error) error {
	var locked *store.LockedError
	hint := "see: roost doctor --store-dir " + cfg.StoreDir
	switch {
	case errors.As(err, &locked):
		hint = "one process owns a store: stop that one, or choose another --store-dir"
	case errors.Is(err, snapshot.ErrNewerFormat):
		hint = "run the newer roost, or give this one another --store-dir; nothing was changed"
	}
	return &exitError{code: exitUnreachable, err: err, hint: hint}
}

// agentError gives the end of an agent its exit status.
func agentError(ctx context.Context, cfg configs.Agent, err error) error {
	var e *api.Error
	switch {
	case err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled):
		return nil
	case errors.As(err, &e) && e.Code == api.CodeNameTaken:
		return &exitError{code: exitRefused, err: err, hint: "give this host a name of its own with --name or agent.name"}
	case errors.As(err, &e) && (e.Code == api.CodeUnauthorized || e.Code == api.CodeForbidden):
		return &exitError{code: exitRefused, err: err, hint: "is " + cfg.TokenFile + " the token of this coordinator?"}
	}
	return &exitError{code: exitUnreachable, err: fmt.Errorf("agent %s: %w", cfg.Name, err)}
}
