package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/internal/install"
)

// systemdDir is there where systemd is process 1.
const systemdDir = "/run/systemd/system"

// systemd reports whether services can be started here. ROOST_TEST_SYSTEMCTL stands for
// systemctl in tests.
func (o *installOptions) systemd() bool {
	if os.Getenv("ROOST_TEST_SYSTEMCTL") != "" {
		return true
	}
	_, err := os.Stat(systemdDir)
	return err == nil
}

func systemctl(ctx context.Context, args ...string) error {
	name := os.Getenv("ROOST_TEST_SYSTEMCTL")
	if name == "" {
		name = "systemctl"
	}
	out, err := osexec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (o *installOptions) reloadUnits(ctx context.Context) error {
	if !o.systemd() || o.noStart {
		return nil
	}
	return systemctl(ctx, "daemon-reload")
}

// start enables and starts the services, the runners' after the agent. The agent is
// started anew if something of it has changed; jobs do not mind.
func (o *installOptions) start(ctx context.Context, p *installPlan, out *outcome) error {
	if o.noStart {
		return nil
	}
	if !o.systemd() {
		if out.Changed {
			out.note("this host has no systemd, so nothing was started. Keep this running as root, and start it at boot: roost agent --config %s", o.path("config.toml"))
			if p.wish.WithCoordinator {
				out.note("and, before it: roost coordinator --config %s", o.path("config.toml"))
			}
		}
		return nil
	}
	if err := o.reloadUnits(ctx); err != nil {
		return err
	}
	for _, u := range p.agentUnits {
		if err := systemctl(ctx, "enable", u); err != nil {
			return err
		}
		verb := "start"
		if out.Changed {
			verb = "restart"
		}
		if err := systemctl(ctx, "--no-block", verb, u); err != nil {
			return err
		}
		if out.Changed {
			out.Started = append(out.Started, u)
		}
	}
	for _, u := range p.runnerUnits {
		if err := systemctl(ctx, "enable", u); err != nil {
			return err
		}
		if err := systemctl(ctx, "--no-block", "start", u); err != nil {
			return err
		}
		if out.Changed {
			out.Started = append(out.Started, u)
		}
	}
	return nil
}

// stopUnits stops services and takes them out of the boot. Runners end their jobs first.
func (o *installOptions) stopUnits(ctx context.Context, units []string) error {
	if !o.systemd() {
		return nil
	}
	var errs []error
	for _, u := range slices.Backward(units) {
		errs = append(errs, systemctl(ctx, "disable", "--now", u))
	}
	return errors.Join(errs...)
}

// uninstall does what the command says.
func (o *installOptions) uninstall(cmd *cobra.Command) error {
	if o.force && o.keep {
		return usageError(errors.New("--force and --keep: choose one"), "")
	}
	in := o.installer()
	j, err := in.Read()
	if err != nil {
		return err
	}
	out := &outcome{DryRun: o.dryRun}
	if j == nil {
		return o.print(cmd.OutOrStdout(), out)
	}
	way := install.Refuse
	switch {
	case o.force:
		way = install.Force
	case o.keep:
		way = install.Keep
	}
	if err := j.Changed(); err != nil && way == install.Refuse {
		return changedHint(err, true)
	}
	out.Changed = true
	for _, r := range slices.Backward(j.Files) {
		c := change{Path: r.Path, Action: "restore"}
		if r.Before == "" {
			c.Action = "remove"
		}
		out.Files = append(out.Files, c)
	}
	if !o.dryRun {
		if out.Left, err = o.undo(cmd, in, j, way); err != nil {
			return changedHint(err, true)
		}
		out.note("workspaces and state are still in %s", o.lib)
	}
	return o.print(cmd.OutOrStdout(), out)
}

// undo puts the runner's files back first. The agent stays until the jobs that it
// stands behind have ended.
func (o *installOptions) undo(cmd *cobra.Command, in *install.Installer, j *install.Journal, way string) ([]install.Undone, error) {
	ctx := cmd.Context()
	var agents, runners []string
	for _, u := range j.Units {
		if strings.HasPrefix(u, "gitlab-runner-roost@") {
			runners = append(runners, u)
		} else {
			agents = append(agents, u)
		}
	}
	first, stopped := true, false
	left, err := in.Undo(j, way, func(path string) error {
		if first {
			first = false
			if len(runners) > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "stopping the slots' runners; each ends its job first")
			}
			if err := o.stopUnits(ctx, runners); err != nil {
				return err
			}
		}
		if stopped || !strings.HasPrefix(path, o.etc+"/") && !strings.HasPrefix(path, o.units+"/") {
			return nil
		}
		stopped = true
		o.waitForJobs(cmd)
		if err := o.stopUnits(ctx, agents); err != nil {
			return err
		}
		unmountIdle(filepath.Join(o.lib, "slots"))
		return nil
	})
	if err != nil {
		return left, err
	}
	return left, o.reloadUnits(ctx)
}

// waitForJobs waits until no job has a workspace mounted.
func (o *installOptions) waitForJobs(cmd *cobra.Command) {
	until := time.Now().Add(o.wait)
	for said := false; time.Now().Before(until); {
		n := mountsBelow(filepath.Join(o.lib, "slots"))
		if n == 0 {
			return
		}
		if !said {
			said = true
			fmt.Fprintf(cmd.ErrOrStderr(), "%d jobs are running; waiting for them up to %s (--wait)\n", n, o.wait)
		}
		select {
		case <-cmd.Context().Done():
			return
		case <-time.After(2 * time.Second):
		}
	}
}

// mountsBelow counts the file systems that are mounted below a directory.
func mountsBelow(dir string) int {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	n := 0
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			n++
		}
	}
	return n
}
