package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/internal/install"
)

// installOptions are the flags of install and uninstall. Those that describe the
// installation are remembered in its journal: the next run without them means the same.
type installOptions struct {
	wish
	// Where things are; only tests say it.
	etc, lib, units, socket string

	join                     string
	dryRun, json, noStart    bool
	showSecrets, force, keep bool
	wait                     time.Duration
}

// defaultPort is one that root alone may take: a job that listened there while the agent
// restarts would be given the runners' tokens.
const defaultPort = 929

// wish is what an installation is to be.
type wish struct {
	Config          string `json:"config"` // GitLab Runner's
	Runner          string `json:"runner,omitempty"`
	Slots           int    `json:"slots"`
	Executor        string `json:"executor,omitempty"` // "custom", or the runner's own
	PerSlotPaths    bool   `json:"per_slot_paths,omitempty"`
	Pool            string `json:"pool,omitempty"`
	Address         string `json:"address,omitempty"` // of the bridge, for docker
	Port            int    `json:"port"`
	User            string `json:"user,omitempty"`
	Program         string `json:"program,omitempty"` // gitlab-runner
	WithCoordinator bool   `json:"with_coordinator,omitempty"`
	Listen          string `json:"listen,omitempty"` // the coordinator's
}

func newInstall() *cobra.Command {
	c := &cobra.Command{Use: "install", Short: "Make this host's CI runners sticky"}
	var o installOptions
	g := &cobra.Command{
		Use:   "gitlab",
		Short: "Put Roost between this host's GitLab runner and its GitLab",
		Long: `Changes the runner's configuration so that the runner gets its jobs from Roost's
agent on this host, one [[runners]] for each job at a time, and writes the agent's
configuration and services. Nothing changes in GitLab or in any project. Comments and
whatever it does not know stay as they are; what was there before is kept beside it.

--dry-run shows every change and does nothing. A second run changes nothing; with
other flags it changes the installation. roost uninstall gitlab puts everything back.

A host needs a coordinator: the line that roost coordinator join prints on its host
(--join), or one on this host (--with-coordinator). The first host has the coordinator;
all others join it.` + exitHelp,
		Example: `  roost install gitlab --with-coordinator --dry-run
  roost install gitlab --join "roost-join:https://ci-1:7780#…#…"
  roost install gitlab --join @/root/join --runner "big docker" --slots 4`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.install(cmd) },
	}
	o.commonFlags(g)
	f := g.Flags()
	f.StringVar(&o.Config, "config", "", "GitLab Runner's configuration (default /etc/gitlab-runner/config.toml)")
	f.StringVar(&o.Runner, "runner", "", "name of the [[runners]] entry; needed if there are several")
	f.IntVar(&o.Slots, "slots", 0, "jobs at a time (default: the entry's limit, else concurrent)")
	f.StringVar(&o.join, "join", "", "what roost coordinator join printed; @FILE or - for standard input keep it out of the list of processes")
	f.BoolVar(&o.WithCoordinator, "with-coordinator", false, "run the coordinator on this host, too")
	f.StringVar(&o.Listen, "coordinator-listen", "", "address of that coordinator (default 0.0.0.0:7780, with TLS)")
	f.StringVar(&o.Executor, "executor", "", "custom: leave url and token as they are and call roost as custom executor")
	f.BoolVar(&o.PerSlotPaths, "per-slot-paths", false, "shell: one runner process, with another path in each slot")
	f.StringVar(&o.Pool, "pool", "", "name of the pool: hosts whose runners have the same tags and scope (default: default)")
	f.StringVar(&o.Address, "docker-address", "", "docker: this host's address as containers see it (default: the bridge's)")
	f.IntVar(&o.Port, "port", 0, fmt.Sprintf("port where the agent listens for runners; only one below 1024 can't be taken by a job while the agent restarts (default %d)", defaultPort))
	f.StringVar(&o.User, "user", "", "shell: user of the jobs (default: that of the runner's service)")
	f.StringVar(&o.Program, "runner-program", "", "gitlab-runner (default: that of the runner's service)")
	f.BoolVar(&o.noStart, "no-start", false, "start nothing and check nothing")
	f.BoolVar(&o.showSecrets, "show-secrets", false, "show tokens in the changes")
	c.AddCommand(g)
	return c
}

func (o *installOptions) commonFlags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be done and do nothing")
	f.BoolVar(&o.json, "json", false, "print the outcome as JSON")
	f.StringVar(&o.etc, "etc", "/etc/roost", "Roost's configuration")
	f.StringVar(&o.lib, "lib", "/var/lib/roost", "Roost's state")
	f.StringVar(&o.units, "systemd-units", "/etc/systemd/system", "where units go")
	f.StringVar(&o.socket, "socket", defaultSocket, "the agent's socket for the custom executor")
	for _, name := range []string{"etc", "lib", "systemd-units", "socket"} {
		f.MarkHidden(name) //nolint:errcheck // the flag exists, some lines above
	}
}

func (o *installOptions) installer() *install.Installer {
	return &install.Installer{Path: filepath.Join(o.lib, "install.json"), By: "roost " + version, Now: time.Now}
}

// outcome is what install and uninstall say.
type outcome struct {
	Changed bool     `json:"changed"`
	DryRun  bool     `json:"dry_run,omitempty"`
	Files   []change `json:"files"`
	Started []string `json:"started,omitempty"`
	// Verified is "yes", or why it was not checked.
	Verified string           `json:"verified,omitempty"`
	Left     []install.Undone `json:"left,omitempty"`
	Notes    []string         `json:"notes,omitempty"`
}

// change is a file that changes.
type change struct {
	Path   string `json:"path"`
	Action string `json:"action"` // create, change, same, restore, remove
	Diff   string `json:"diff,omitempty"`
}

func (r *outcome) note(format string, a ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, a...)) }

func (o *installOptions) print(w io.Writer, r *outcome) error {
	if o.json {
		return json.NewEncoder(w).Encode(r)
	}
	for _, f := range r.Files {
		switch {
		case f.Action == "same":
		case f.Diff != "":
			fmt.Fprint(w, f.Diff)
		default:
			fmt.Fprintf(w, "%s %s\n", f.Action, f.Path)
		}
	}
	for _, u := range r.Started {
		fmt.Fprintf(w, "started %s\n", u)
	}
	if r.Verified == "yes" {
		fmt.Fprintln(w, "the runner verifies through Roost")
	} else if r.Verified != "" {
		fmt.Fprintf(w, "not checked whether the runner verifies: %s\n", r.Verified)
	}
	for _, u := range r.Left {
		if u.Kept == u.Path {
			fmt.Fprintf(w, "%s was changed since and stays; its original is %s\n", u.Path, u.Original)
		} else {
			fmt.Fprintf(w, "%s was changed since; that text is in %s now\n", u.Path, u.Kept)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	switch {
	case r.DryRun && r.Changed:
		fmt.Fprintln(w, "nothing was done (--dry-run)")
	case !r.Changed:
		fmt.Fprintln(w, "nothing to change")
	}
	return nil
}

// changedHint tells the three ways out.
func changedHint(err error, uninstall bool) error {
	var ce *install.ChangedError
	if !errors.As(err, &ce) {
		return err
	}
	var b strings.Builder
	if uninstall {
		b.WriteString("three ways out: --force puts back what was there and keeps today's text beside it;\n   --keep leaves the file as it is and undoes the rest; or by hand:")
	} else {
		b.WriteString("roost uninstall gitlab has three ways out; see what it is about with:")
	}
	for _, r := range ce.Files {
		if r.Backup != "" {
			fmt.Fprintf(&b, "\n   diff %s %s", r.Backup, r.Path)
		}
	}
	return &exitError{code: exitRefused, err: err, hint: b.String()}
}
