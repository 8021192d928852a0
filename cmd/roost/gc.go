package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot/view"
)

func newGC() *cobra.Command {
	var (
		state       string
		all, dryRun bool
	)
	c := &cobra.Command{
		Use:   "gc --all",
		Short: "Forget everything that a state directory keeps",
		Long: `Deletes the whole state directory of roost run and roost up: workspaces, layers,
logs, pipelines. Refused while a process of ours uses it.

Collecting only what nothing needs any more comes with eviction; until then --all
is the one form.` + exitHelp,
		Example: "  roost gc --all --state .demo --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !all {
				return usageError(errors.New("only --all is supported yet"), "it deletes everything below --state")
			}
			if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(cmd.OutOrStdout(), "%s does not exist: nothing to delete\n", state)
				return nil
			}
			if !isState(state) {
				return usageError(fmt.Errorf("%s is not a state directory of ours: it has no cluster lock", state), "nothing was deleted")
			}
			if dryRun {
				fmt.Fprintf(cmd.OutOrStdout(), "would delete %s\n", state)
				return nil
			}
			if err := forget(cmd.Context(), state); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", state)
			return nil
		},
	}
	c.Flags().StringVar(&state, "state", defaultState(), "the state directory")
	c.Flags().BoolVar(&all, "all", false, "delete everything")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be deleted")
	return c
}

// isState keeps a typing error in --state from deleting somebody's home.
func isState(dir string) bool {
	for _, name := range []string{"lock", "holder"} {
		if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || !fi.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// forget unmounts what a crash may have left mounted and deletes the directory.
// The lock goes last, so that an interrupted deletion can be repeated.
func forget(ctx context.Context, state string) error {
	lock := flock.New(filepath.Join(state, "lock"))
	ok, err := lock.TryLock()
	if err != nil {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("state directory: %w", err)}
	}
	if !ok {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("%s is in use", state), hint: "stop roost up or roost run first"}
	}
	defer lock.Unlock() //nolint:errcheck // the file is about to go
	stores, err := filepath.Glob(filepath.Join(state, "*", "store.db"))
	if err != nil {
		return err
	}
	for _, s := range stores {
		d, err := view.Open("", filepath.Dir(s), view.Options{Owners: os.Geteuid() == 0})
		if err != nil {
			return &exitError{code: exitUnreachable, err: err}
		}
		if _, err := d.Reconcile(ctx, nil, nil); err != nil {
			return &exitError{code: exitUnreachable, err: err, hint: "something still uses a view: see /proc/self/mountinfo"}
		}
	}
	entries, err := os.ReadDir(state)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != "holder" {
			if err := removeAll(filepath.Join(state, e.Name())); err != nil {
				return err
			}
		}
	}
	return removeAll(state)
}

// removeAll deletes a directory even where jobs made its directories read-only.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return err
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
