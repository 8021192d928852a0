package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

type agentOptions struct {
	service
	set       configs.Agent // what flags said
	driver    string        // same
	join      string
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
		Example: "  roost agent --config /etc/roost/config.toml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&o.set.Name, "name", "", "name of this host (agent.name)")
	f.StringVar(&o.set.Coordinator, "coordinator", "", "URL of the coordinator (agent.coordinator)")
	f.StringVar(&o.set.Pin, "coordinator-pin", "", "pin of the coordinator's certificate (agent.coordinator_pin)")
	f.StringVar(&o.join, "join", "", "what roost coordinator join printed: @FILE, or - for standard input; stands for coordinator, pin and token")
	f.StringVar(&o.set.TokenFile, "token-file", "", "file with the agent's token (agent.token_file)")
	f.IntVar(&o.set.Slots, "slots", 0, "jobs at once (agent.slots)")
	f.StringSliceVar(&o.set.Tags, "tags", nil, "tags of this host (agent.tags)")
	f.StringVar(&o.set.StoreDir, "store-dir", "", "directory of the workspaces (agent.store_dir)")
	f.StringVar(&o.driver, "driver", "", "how views are made: "+strings.Join(configs.Drivers, ", ")+" (store.driver)")
	offer(c, "driver", configs.Drivers...)
	f.StringVar(&o.set.BuildsDir, "builds-dir", "", "where jobs see their workspace (agent.builds_dir)")
	f.StringVar(&o.set.RunAs, "run-as", "", "user that jobs run as (agent.run_as)")
	f.IntVar(&o.maxLowers, "max-lowers", 0, "flatten a view that stands on more layers than this")
	f.DurationVar(&o.roomEvery, "room-every", 0, "look so often whether the store has room")
	f.MarkHidden("room-every") //nolint:errcheck // as below
	f.MarkHidden("max-lowers") //nolint:errcheck // the flag exists, one line above; tests flatten early
	return c
}

// configure merges file and flags.
func (o *agentOptions) configure() (configs.Config, error) {
	cfg, err := loadConfig(o.config)
	if err != nil {
		return cfg, err
	}
	a := &cfg.Agent
	for _, f := range []struct{ to, from *string }{
		{&a.Name, &o.set.Name},
		{&a.Coordinator, &o.set.Coordinator},
		{&a.Pin, &o.set.Pin},
		{&a.TokenFile, &o.set.TokenFile},
		{&a.StoreDir, &o.set.StoreDir},
		{&cfg.Store.Driver, &o.driver},
		{&a.BuildsDir, &o.set.BuildsDir},
		{&a.RunAs, &o.set.RunAs},
		{&a.LogLevel, &o.logLevel},
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
			return cfg, usageError(fmt.Errorf("agent.name is not set and the host has none: %w", err), "")
		}
	}
	if a.Slots == 0 && !cfg.GitLab.On() {
		a.Slots = max(1, runtime.NumCPU()/2)
	}
	if err := cfg.Validate(); err != nil {
		return cfg, usageError(err, "see: roost config reference")
	}
	if a.StoreDir, err = filepath.Abs(a.StoreDir); err != nil {
		return cfg, usageError(err, "")
	}
	return cfg, nil
}

func (o *agentOptions) run(cmd *cobra.Command) error {
	cfg, err := o.configure()
	if err != nil {
		return err
	}
	client, err := o.client(cmd, &cfg.Agent)
	if err != nil {
		return err
	}
	ctx, log, err := o.start(cmd, cfg.Agent.Name, cfg.Agent.LogLevel)
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
	o.reloads(cmd, ctx, reloading{
		section: []string{"agent", "store", "gitlab"}, was: cfg, load: o.configure, log: log,
		apply: func(is configs.Config) error {
			t, err := o.tuningOf(is)
			if err != nil {
				return err
			}
			a.Tune(t)
			log.SetLevel(hclog.LevelFromString(is.Agent.LogLevel))
			return nil
		},
	})
	// The store is open and its file system is mounted: what needs the slots' directories
	// may start, whether the coordinator is there or not.
	if err := sdNotify("READY=1"); err != nil {
		log.Warn("telling systemd", "error", err)
	}
	return agentError(ctx, cfg.Agent, a.Run(ctx))
}

// client makes the client of the coordinator that file, flags or a join line name.
func (o *agentOptions) client(cmd *cobra.Command, cfg *configs.Agent) (*api.Client, error) {
	var token string
	if o.join != "" {
		j, err := readJoin(o.join, cmd.InOrStdin(), true)
		if err != nil {
			return nil, usageError(fmt.Errorf("--join: %w", err), "")
		}
		cfg.Coordinator, cfg.Pin, token = j.URL, j.Pin, j.token
	} else {
		var err error
		if token, err = readToken(cfg.TokenFile); err != nil {
			return nil, usageError(err, "the coordinator makes it at its first start: STATE_DIR/agent.token; on another host: roost coordinator join")
		}
	}
	c, err := api.NewClient(cfg.Coordinator, token, coordinatorHTTP(cfg.Pin))
	if err != nil {
		return nil, usageError(err, "")
	}
	return c, nil
}

func storeError(cfg configs.Agent, err error) error {
	var locked *store.LockedError
	hint := "see: roost doctor --store-dir " + cfg.StoreDir
	switch {
	case errors.As(err, &locked):
		hint = "one process owns a store: stop that one, or choose another --store-dir"
	case errors.Is(err, snapshot.ErrNewerFormat):
		hint = "run the newer roost, or give this one another --store-dir; nothing was changed"
	case errors.Is(err, fs.ErrPermission):
		hint = ownerHint
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
