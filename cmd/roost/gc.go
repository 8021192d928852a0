package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

func newGC() *cobra.Command {
	var (
		o     gcOptions
		state string
		all   bool
	)
	c := &cobra.Command{
		Use:   "gc",
		Short: "Make room in a store, or forget a whole state directory",
		Long: `Without --all: opens the store of a host whose agent is stopped, deletes what a
crash left and what no job can use, and with --target or --older-than evicts
layers that the blob store has, the longest unused first. A layer of which there
is no other copy is never touched. A running agent does the same by itself, by the
marks in the section [store] of its configuration.

With --all: deletes the whole state directory of roost run and roost up:
workspaces, layers, logs, pipelines. Refused while a process of ours uses it.` + exitHelp + `
For gc, 1 says that the target was not reached.`,
		Example: `  roost gc --store-dir /var/lib/roost/store --target 50GiB --dry-run
  roost gc --store-dir /var/lib/roost/store --older-than 336h
  roost gc --all --state .demo --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				return forgetAll(cmd, state, o.dryRun)
			}
			return o.run(cmd)
		},
	}
	f := c.Flags()
	f.StringVar(&state, "state", defaultState(), "with --all: the state directory")
	f.BoolVar(&all, "all", false, "delete everything below --state")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be deleted")
	o.flags(f)
	return c
}

// forgetAll is gc --all.
func forgetAll(cmd *cobra.Command, state string, dryRun bool) error {
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(cmd.OutOrStdout(), "%s does not exist: nothing to delete\n", state)
		return nil
	}
	// The list of mounts has them by their real names: by another they would be passed
	// over, and what is mounted would be deleted from within.
	real, err := filepath.Abs(state)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return usageError(err, "")
	}
	if !isState(state) {
		return usageError(fmt.Errorf("%s is not a state directory of ours: it has no cluster lock", state), "nothing was deleted")
	}
	if dryRun {
		fmt.Fprintf(cmd.OutOrStdout(), "would delete %s\n", state)
		return nil
	}
	if err := forget(cmd.Context(), real); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", state)
	return nil
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

// forget unmounts what a crash may have left mounted and deletes the directory, which
// is given by its real name.
// The lock goes last, so that an interrupted deletion can be repeated.
func forget(ctx context.Context, state string) error {
	lock := flock.New(filepath.Join(state, "lock"))
	ok, err := lock.TryLock()
	if err != nil {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("state directory: %w", err), hint: ownerHint}
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
		open := func() (view.Driver, error) {
			return view.Open("", filepath.Dir(s), view.Options{Owners: os.Geteuid() == 0})
		}
		d, err := open()
		if errors.Is(err, syscall.ENOSPC) && store.GiveReserve(filepath.Dir(s)) {
			d, err = open()
		}
		if errors.Is(err, view.ErrUnavailable) {
			continue // its layers are a driver's that does not work here any more: it has no mounts
		}
		if err != nil {
			return &exitError{code: exitUnreachable, err: err}
		}
		if _, err := d.Reconcile(ctx, nil, nil); err != nil {
			return &exitError{code: exitUnreachable, err: err, hint: "something still uses a view: see /proc/self/mountinfo"}
		}
	}
	if err := releaseBackings(ctx, state); err != nil {
		return &exitError{code: exitUnreachable, err: err, hint: "something still uses a store: see fuser -m"}
	}
	if left := mountsBelow(state); len(left) > 0 {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("%s is still mounted", left[0]), hint: "unmount it; then once more. Nothing was deleted"}
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
