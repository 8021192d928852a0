package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

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

// changes compares what is there with what is to be.
func (o *installOptions) changes(p *installPlan, old *install.Journal) ([]change, error) {
	var out []change
	for _, f := range p.files {
		now, err := os.ReadFile(f.Path)
		c := change{Path: f.Path, Action: "change"}
		switch {
		case errors.Is(err, os.ErrNotExist):
			c.Action = "create"
		case err != nil:
			return nil, err
		case bytes.Equal(now, f.Text):
			c.Action = "same"
		}
		if c.Action != "same" && !p.secret[f.Path] {
			from := f.Path
			if c.Action == "create" {
				from = "/dev/null"
			}
			c.Diff = install.Diff(from, f.Path, now, f.Text)
			if !o.showSecrets {
				c.Diff = hideSecrets(c.Diff)
			}
		}
		out = append(out, c)
	}
	if old != nil {
		for _, r := range old.Files {
			if !slices.ContainsFunc(p.files, func(f install.File) bool { return f.Path == r.Path }) {
				action := "restore"
				if r.Before == "" {
					action = "remove"
				}
				out = append(out, change{Path: r.Path, Action: action})
			}
		}
	}
	return out, nil
}

var (
	secretKeyRE = regexp.MustCompile(`(?im)^([ +-][ \t]*"?[a-z_.]*(?:token|secret|password|accesskey|sastoken|accountkey|private_?key)[a-z_]*"?[ \t]*=[ \t]*)("[^"\n]*"|'[^'\n]*')`)
	secretEnvRE = regexp.MustCompile(`(["'][A-Za-z_][A-Za-z0-9_]*=)[^"'\n]*`)
	secretVarRE = regexp.MustCompile(`(?m)^([ +-]Environment=).+$`)
	configKeyRE = regexp.MustCompile(`(?m)^([ +-][ \t]*(?:agent\.)?(?:token_file|token_files|api_token_file|slot_tokens_file)[ \t]*=.*)$`)
)

// hideSecrets hides tokens, passwords and the values of variables in a diff.
func hideSecrets(diff string) string {
	paths := configKeyRE.FindAllString(diff, -1)
	diff = secretKeyRE.ReplaceAllString(diff, `$1"***"`)
	for _, p := range paths { // names of files with tokens are none
		hidden := secretKeyRE.ReplaceAllString(p, `$1"***"`)
		diff = strings.Replace(diff, hidden, p, 1)
	}
	return secretEnvRE.ReplaceAllString(secretVarRE.ReplaceAllString(diff, "$1***"), "$1***")
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

// verifyFor is how long the runner may take to be known through a new agent.
const verifyFor = 45 * time.Second

// verify asks, as the runner does, whether slot 1's token is good.
func (o *installOptions) verify(ctx context.Context, p *installPlan, out *outcome) error {
	switch {
	case p.verifyURL == "":
		return nil
	case o.noStart:
		out.Verified = "--no-start"
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, verifyFor)
	defer cancel()
	for {
		status, err := askVerify(ctx, p.verifyURL, p.verifyToken)
		switch {
		case err == nil && status == http.StatusOK:
			out.Verified = "yes"
			return nil
		case err == nil && status == http.StatusForbidden:
			return errors.New("GitLab does not know the runner's token, or the agent not that of slot 1 (403)")
		case err != nil && !o.systemd():
			out.Verified = "the agent is not running"
			return nil
		case err == nil && !o.systemd():
			out.Verified = fmt.Sprintf("what listens there is not the agent: answer %d", status)
			return nil
		case err == nil:
			err = fmt.Errorf("answer %d", status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the runner can't be verified through %s: %w (the agent's log: journalctl -u roost-agent)", p.verifyURL, err)
		case <-time.After(time.Second):
		}
	}
}

func askVerify(ctx context.Context, url, token string) (int, error) {
	body, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Runner-Token", token)
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	return res.StatusCode, nil
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
