package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// databaseRoom is what uploads leave free for the database, which is on the same file
// system: without a blob a job waits, without its database the coordinator does.
const databaseRoom = 16 << 20

type coordinatorOptions struct {
	service
	listen, stateDir, url string
	localSource           bool
}

func newCoordinator() *cobra.Command {
	var o coordinatorOptions
	c := &cobra.Command{
		Use:   "coordinator",
		Short: "Serve as the coordinator: place jobs, keep logs, hold layers",
		Long: `Runs the coordinator until it is stopped. Its tokens are made at the first start:
STATE_DIR/agent.token for agents, STATE_DIR/user.token for people. Beyond loopback it
serves TLS, with a certificate of its own if it is given none; roost coordinator join
prints what other hosts need. Flags win over the configuration file, which is read
again on SIGHUP.` + exitHelp,
		Example: "  roost coordinator --config /etc/roost/config.toml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(c)
	o.outlive = 5 * time.Second
	f := c.Flags()
	f.StringVar(&o.listen, "listen", "", "address to listen on (coordinator.listen)")
	f.StringVar(&o.stateDir, "state-dir", "", "directory of its state (coordinator.state_dir)")
	c.AddCommand(newJoin())
	f.BoolVar(&o.localSource, "local-source", false, "let pipelines name a git work tree on this machine")
	return c
}

// configure merges file and flags.
func (o *coordinatorOptions) configure() (configs.Config, error) {
	cfg, err := loadConfig(o.config)
	if err != nil {
		return cfg, err
	}
	c := &cfg.Coordinator
	for _, f := range []struct{ to, from *string }{
		{&c.Listen, &o.listen},
		{&c.StateDir, &o.stateDir},
		{&c.URL, &o.url},
		{&c.LogLevel, &o.logLevel},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if err := cfg.Validate(); err != nil {
		return cfg, usageError(err, "see: roost config reference")
	}
	return cfg, nil
}

func (o *coordinatorOptions) run(cmd *cobra.Command) error {
	all, err := o.configure()
	if err != nil {
		return err
	}
	cfg := all.Coordinator
	ctx, log, err := o.start(cmd, "coordinator", cfg.LogLevel)
	if err != nil {
		return err
	}
	scrub := newBlobScrub(log.Named("blob"))
	opts, closeBlobs, err := o.options(cfg, scrub, log.Named("blob"))
	if err != nil {
		return err
	}
	defer closeBlobs()
	opts.Log = log
	s, err := coordinator.Open(ctx, opts)
	if err != nil {
		return coordinatorError(cfg, err)
	}
	o.reloads(cmd, ctx, reloading{
		section: []string{"coordinator"}, was: all, load: o.configure, log: log,
		apply: func(is configs.Config) error {
			every, rate, err := blobScrubOf(is.Coordinator)
			if err != nil {
				return err
			}
			scrub.set(every, rate)
			log.SetLevel(hclog.LevelFromString(is.Coordinator.LogLevel))
			return nil
		},
	})
	if err := sayReady(cmd.OutOrStdout(), ready{Ready: "coordinator", URL: s.URL()}); err != nil {
		return err
	}
	if err := sdNotify("READY=1"); err != nil {
		log.Warn("telling systemd", "error", err)
	}
	if err := s.Run(ctx); err != nil && ctx.Err() == nil {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("coordinator: %w", err)}
	}
	return nil
}

// options wires tokens and the blob store. closeBlobs ends what was begun.
func (o *coordinatorOptions) options(cfg configs.Coordinator, scrub *blobScrub, log hclog.Logger) (_ coordinator.Options, closeBlobs func(), err error) {
	opts, err := o.translate(cfg)
	if err == nil {
		err = secrets(&opts, cfg)
	}
	var every time.Duration
	var rate int64
	if err == nil {
		every, rate, err = blobScrubOf(cfg)
	}
	var dir *blob.Dir
	if err == nil {
		dir, err = blob.OpenDir(filepath.Join(cfg.StateDir, "blobs"), blob.DirOptions{MinFree: databaseRoom})
	}
	if err != nil {
		return opts, nil, coordinatorError(cfg, err)
	}
	scrub.set(every, rate)
	stop := scrub.start(dir)
	opts.Missing, opts.Blobs = missingBlobs(dir, log), blob.Handler(dir, blob.HandlerOptions{Log: log})
	opts.HostOf = newHostTokens(cfg.StateDir, log).hostOf
	return opts, func() {
		stop()
		if err := dir.Close(); err != nil {
			log.Warn("closing the blob store", "error", err)
		}
	}, nil
}

// translate takes over what the configuration says.
func (o *coordinatorOptions) translate(cfg configs.Coordinator) (coordinator.Options, error) {
	opts := coordinator.Options{
		Dir: cfg.StateDir, Addr: cfg.Listen, GitLabURLs: cfg.GitLabURLs, HostTokensOnly: cfg.HostTokens == "required",
		AllowLocalSource: o.localSource, MaxInfraRetries: cfg.InfraTries, Version: version,
	}
	if opts.MaxInfraRetries == 0 {
		opts.MaxInfraRetries = -1 // none; zero means the default there
	}
	if o.localSource {
		opts.Heartbeat = time.Second // a few agents on this machine: Ctrl-C is heard soon
	}
	var err error
	if opts.HostLease, err = time.ParseDuration(cfg.HostLease); err != nil {
		return opts, fmt.Errorf("coordinator.host_lease: %w", err)
	}
	if cfg.GitLabCAFile != "" {
		if opts.GitLabCA, err = os.ReadFile(cfg.GitLabCAFile); err != nil {
			return opts, fmt.Errorf("coordinator.gitlab_ca_file: %w", err)
		}
	}
	return opts, nil
}

// secrets reads tokens and key, or makes them at the first start.
func secrets(opts *coordinator.Options, cfg configs.Coordinator) (err error) {
	if opts.AgentToken, err = ensureToken(filepath.Join(cfg.StateDir, "agent.token")); err != nil {
		return err
	}
	if opts.UserToken, err = ensureToken(filepath.Join(cfg.StateDir, "user.token")); err != nil {
		return err
	}
	opts.TLS, err = serverTLS(cfg)
	return err
}

func coordinatorError(cfg configs.Coordinator, err error) error {
	var inUse *coordinator.AddrInUseError
	switch {
	case errors.As(err, &inUse):
		return &exitError{
			code: exitUnreachable, err: err,
			hint: "choose another with --listen or coordinator.listen",
		}
	case errors.Is(err, coordinator.ErrExposed):
		return usageError(err, "")
	case errors.Is(err, snapshot.ErrNewerFormat):
		return &exitError{
			code: exitUnreachable, err: fmt.Errorf("state in %s: %w", cfg.StateDir, err),
			hint: "run the newer roost, or give this one another --state-dir; nothing was changed",
		}
	case errors.Is(err, fs.ErrPermission):
		return &exitError{code: exitUnreachable, err: err, hint: ownerHint}
	case errors.Is(err, context.Canceled):
		return err
	}
	return &exitError{code: exitUnreachable, err: err}
}
