package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/internal/install"
	"github.com/roost-ci/roost/internal/mountinfo"
	"github.com/roost-ci/roost/internal/pause"
)

func newUninstall() *cobra.Command {
	c := &cobra.Command{Use: "uninstall", Short: "Put back what roost install changed"}
	var o installOptions
	g := &cobra.Command{
		Use:   "gitlab",
		Short: "Give this host's GitLab runner back to its GitLab",
		Long: `Puts back every file as it was, byte for byte, and stops what roost install gitlab
started, once the jobs under way have ended. Workspaces and state stay in /var/lib/roost.

If somebody changed a file since, nothing is done unless you choose:
  --force   put back what was there; what is there now is kept beside it
  --keep    leave the changed files as they are and undo the rest
  by hand   compare the file with its backup, FILE.before-roost` + exitHelp,
		Example: "  roost uninstall gitlab --dry-run\n  roost uninstall gitlab",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.uninstall(cmd) },
	}
	o.commonFlags(g)
	f := g.Flags()
	f.BoolVar(&o.force, "force", false, "put back files that were changed since, too")
	f.BoolVar(&o.keep, "keep", false, "leave files that were changed since")
	f.DurationVar(&o.wait, "wait", time.Hour, "how long to wait for the jobs under way")
	c.AddCommand(g)
	return c
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
		n := len(mountsBelow(filepath.Join(o.lib, "slots")))
		if n == 0 {
			return
		}
		if !said {
			said = true
			fmt.Fprintf(cmd.ErrOrStderr(), "%d jobs are running; waiting for them up to %s (--wait)\n", n, o.wait)
		}
		if pause.For(cmd.Context(), 2*time.Second) != nil {
			return
		}
	}
}

// mountsBelow lists where file systems are mounted below a directory, which is given by
// its real name.
func mountsBelow(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []string
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 4 {
			if p := mountinfo.Unescape(f[4]); p != dir && mountinfo.Inside(p, dir) {
				out = append(out, p)
			}
		}
	}
	return out
}
