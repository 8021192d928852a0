package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/internal/install"
	"github.com/roost-ci/roost/internal/runnerconf"
)

// install does what the command says.
func (o *installOptions) install(cmd *cobra.Command) error {
	in := o.installer()
	old, err := o.recoverInstall(cmd, in)
	if err != nil {
		return err
	}
	if err := o.remember(old); err != nil {
		return err
	}
	var line *joinLine
	if o.join != "" {
		j, err := readJoin(o.join, cmd.InOrStdin(), false)
		if err != nil {
			return usageError(fmt.Errorf("--join: %w", err), "")
		}
		line = &j
	}
	if err := o.needCoordinator(line); err != nil {
		return err
	}
	if old != nil {
		if err := old.Changed(); err != nil {
			return changedHint(err, false)
		}
	}
	p, err := o.plan(old, line)
	if err != nil {
		return err
	}
	out := &outcome{DryRun: o.dryRun, Notes: p.notes}
	if out.Files, err = o.changes(p, old); err != nil {
		return err
	}
	out.Changed = slices.ContainsFunc(out.Files, func(c change) bool { return c.Action != "same" })
	if !o.dryRun {
		if err := o.carryOut(cmd, in, old, p, out); err != nil {
			return errors.Join(o.print(cmd.OutOrStdout(), out), err)
		}
	}
	p.advise(out)
	return o.print(cmd.OutOrStdout(), out)
}

// recoverInstall gives the journal of an installation that is in place. One that was
// interrupted is undone first.
func (o *installOptions) recoverInstall(cmd *cobra.Command, in *install.Installer) (*install.Journal, error) {
	j, err := in.Read()
	if err != nil || j == nil || j.Phase == install.Done {
		return j, err
	}
	if o.dryRun {
		return nil, usageError(fmt.Errorf("an installation or its end was interrupted (%s)", in.Path), "run it again without --dry-run: what is half done is put back first")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "an installation, or its end, was interrupted: putting back what it changed\n")
	if _, err := in.Undo(j, install.Refuse, nil); err != nil {
		return nil, changedHint(err, true)
	}
	if err := o.remember(j); err != nil { // what was wanted is wanted still
		return nil, err
	}
	return nil, o.reloadUnits(cmd.Context())
}

// remember fills in what flags did not say with what the installation was.
func (o *installOptions) remember(old *install.Journal) error {
	if old != nil && len(old.Options) > 0 {
		var was wish
		if err := json.Unmarshal(old.Options, &was); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		for _, f := range []struct{ now, was *string }{
			{&o.Config, &was.Config},
			{&o.Runner, &was.Runner},
			{&o.Executor, &was.Executor},
			{&o.Pool, &was.Pool},
			{&o.Address, &was.Address},
			{&o.User, &was.User},
			{&o.Program, &was.Program},
			{&o.Listen, &was.Listen},
		} {
			if *f.now == "" {
				*f.now = *f.was
			}
		}
		if o.Slots == 0 {
			o.Slots = was.Slots
		}
		if o.Port == 0 {
			o.Port = was.Port
		}
		o.PerSlotPaths = o.PerSlotPaths || was.PerSlotPaths
		o.WithCoordinator = o.WithCoordinator || was.WithCoordinator
	}
	if o.Config == "" {
		o.Config = "/etc/gitlab-runner/config.toml"
	}
	return nil
}

// needCoordinator refuses a host that nobody would give jobs to.
func (o *installOptions) needCoordinator(line *joinLine) error {
	switch {
	case line != nil && o.WithCoordinator:
		return usageError(errors.New("--join and --with-coordinator: this host has its own coordinator, or another's"), "")
	case line != nil || o.WithCoordinator:
		return nil
	}
	if _, err := os.Stat(o.path("agent.token")); err == nil {
		return nil // joined before
	}
	return usageError(errors.New("which coordinator gives this host its jobs?"),
		"--with-coordinator on the first host; on the others --join, with what roost coordinator join prints there")
}

// carryOut puts the files in place, starts the services and asks whether the runner is
// still known. If it is not, everything is put back.
func (o *installOptions) carryOut(cmd *cobra.Command, in *install.Installer, old *install.Journal, p *installPlan, out *outcome) error {
	ctx := cmd.Context()
	options, err := json.Marshal(p.wish)
	if err != nil {
		return err
	}
	next := &install.Journal{
		What: "gitlab", Options: options, Litter: []string{".runner_system_id"},
		Units: slices.Concat(p.agentUnits, p.runnerUnits),
	}
	if out.Changed {
		if err := o.stopUnits(ctx, gone(old, next)); err != nil {
			return err
		}
		if err := in.Apply(old, next, p.files); err != nil {
			return fmt.Errorf("installation: %w; run it again: what is half done is put back first", err)
		}
	}
	if err := o.start(ctx, p, out); err != nil {
		return err
	}
	if err := o.verify(ctx, p, out); err != nil {
		return o.takeBack(cmd, in, next, out, err)
	}
	if !out.Changed {
		return nil
	}
	return in.Finish(next)
}

// gone are services that the installation before had.
func gone(old, next *install.Journal) []string {
	if old == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(old.Units), func(u string) bool { return slices.Contains(next.Units, u) })
}

// takeBack undoes an installation that does not work.
func (o *installOptions) takeBack(cmd *cobra.Command, in *install.Installer, next *install.Journal, out *outcome, why error) error {
	if !out.Changed {
		return &exitError{code: exitFailed, err: why, hint: "nothing was changed"}
	}
	ctx := context.WithoutCancel(cmd.Context())
	if err := errors.Join(o.stopUnits(ctx, next.Units)); err != nil {
		why = errors.Join(why, err)
	}
	if _, err := in.Undo(next, install.Refuse, nil); err != nil {
		return &exitError{code: exitFailed, err: errors.Join(why, err), hint: "put it back with: roost uninstall gitlab"}
	}
	if err := o.reloadUnits(ctx); err != nil {
		why = errors.Join(why, err)
	}
	out.Started, out.Changed = nil, false
	return &exitError{code: exitFailed, err: why, hint: "everything was put back, and the runner works as it did before"}
}

// advise says what is left to do.
func (p *installPlan) advise(out *outcome) {
	if !out.Changed {
		out.Notes = nil // all was said the first time
		return
	}
	if p.wish.WithCoordinator {
		out.note("other hosts join with what this prints: roost coordinator join --config /etc/roost/config.toml")
	} else {
		out.note("the coordinator must allow this GitLab: coordinator.gitlab_urls = [%q] on its host", strings.TrimSuffix(p.found.URL, "/"))
	}
	if p.layout == runnerconf.Called {
		out.note("with the custom executor GitLab gives jobs to any host: a job finds its workspace where it happens to run, or it is fetched")
	}
}
