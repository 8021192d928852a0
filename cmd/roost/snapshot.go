package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

func newSnapshot() *cobra.Command {
	c := &cobra.Command{
		Use:   "snapshot",
		Short: "Create, restore, mount and move snapshots in a store directory",
		Long: `Works on a store directory alone, with no coordinator: a fast backup tool, and the
plumbing of what an agent keeps. The store is made at its first use; its key, in
the file "key" there, is needed to read what was pushed elsewhere.

SNAP is a snapshot's id, the first characters of one (four or more) or "latest".
One process uses a store at a time: who finds it held exits with 3.` + exitHelp,
		Example: `  export ROOST_STORE=/var/backups/roost
  roost snapshot create /home --base latest --exclude .cache
  roost snapshot ls
  roost snapshot restore latest /tmp/home
  roost snapshot prune --keep-daily 7 --keep-monthly 12`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newSnapshotCreate(), newSnapshotRestore(), newSnapshotLs(), newSnapshotCat(), newSnapshotDiff(),
		newSnapshotVerify(), newSnapshotMount(), newSnapshotUmount(), newSnapshotPush(), newSnapshotPull(), newSnapshotKey(), newSnapshotRm(), newSnapshotPrune())
	return c
}

// opened is how a snapshot command gets at its store.
type opened struct {
	dir    string
	driver string
	asJSON bool
	began  time.Time
	shown  []store.Shown // what stays mounted
}

func (o *opened) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.dir, "store", os.Getenv("ROOST_STORE"), "the store's directory ($ROOST_STORE)")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	c.MarkFlagDirname("store") //nolint:errcheck // the flag exists, two lines above
}

// open opens the store; make says that it may be made.
func (o *opened) open(cmd *cobra.Command, mayMake bool) (*store.Store, error) {
	o.began = time.Now()
	if o.dir == "" {
		return nil, usageError(errors.New("no store is named"), "--store DIR, or ROOST_STORE=DIR in the environment")
	}
	if _, err := os.Stat(o.dir + "/store.db"); errors.Is(err, fs.ErrNotExist) && !mayMake {
		return nil, &exitError{
			code: exitUnreachable, err: fmt.Errorf("there is no store in %s", o.dir),
			hint: "roost snapshot create makes one",
		}
	}
	root := os.Geteuid() == 0
	log := hclog.New(&hclog.LoggerOptions{Name: "roost", Level: hclog.Warn, Output: cmd.ErrOrStderr()})
	s, err := store.Open(cmd.Context(), o.dir, store.Options{
		Driver: func(dir string) (view.Driver, error) {
			return view.Open(strings.TrimPrefix(o.driver, "auto"), dir, view.Options{Log: log.Named("view"), Owners: root, ToLook: true, Keep: o.readShown()})
		},
		Log: log.Named("store"), Owners: root,
	})
	if err == nil {
		if err = s.SetShown(o.shown); err != nil {
			s.Close() //nolint:errcheck // the first error is the one to tell
		}
	}
	if _, serr := os.Stat(o.dir); errors.Is(err, fs.ErrPermission) && errors.Is(serr, fs.ErrNotExist) {
		return nil, &exitError{code: exitUnreachable, err: err, hint: "no store can be made there by this user: --store DIR names another place"}
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, &exitError{code: exitUnreachable, err: err, hint: ownerHint}
	}
	if err != nil {
		return nil, snapshotError(cmd.Context(), err)
	}
	return s, nil
}

// with runs fn on the open store.
func (o *opened) with(cmd *cobra.Command, mayMake bool, fn func(ctx context.Context, s *store.Store) error) (err error) {
	s, err := o.open(cmd, mayMake)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := s.Close(); cerr != nil && err == nil {
			err = &exitError{code: exitFailed, err: cerr}
		}
	}()
	return snapshotError(cmd.Context(), fn(cmd.Context(), s))
}

// wallMS is how long the command took so far.
func (o *opened) wallMS() float64 {
	return float64(time.Since(o.began).Microseconds()) / 1000
}

// printJSON writes one JSON object in a line.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// latest is the name of the newest snapshot.
const latest = "latest"

// minPrefix is how much of an id must be given.
const minPrefix = 4

// resolve finds the snapshot that people mean.
func resolve(s *store.Store, name string) (store.Info, error) {
	list := s.List()
	if name == latest {
		if len(list) == 0 {
			return store.Info{}, usageError(errors.New("the store has no snapshot yet"), "roost snapshot create DIR makes one, pull fetches one")
		}
		return list[len(list)-1], nil
	}
	var found []store.Info
	for _, in := range list {
		if string(in.ID) == name {
			return in, nil
		}
		if len(name) >= minPrefix && strings.HasPrefix(string(in.ID), name) {
			found = append(found, in)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		var ids []string
		for _, in := range found[:min(len(found), 8)] {
			ids = append(ids, string(in.ID))
		}
		return store.Info{}, usageError(fmt.Errorf("%q is the beginning of %d snapshots", name, len(found)), strings.Join(ids, " "))
	}
	hint := "roost snapshot ls lists what there is"
	if len(name) < minPrefix {
		hint = fmt.Sprintf("an id may be cut to %d characters, not to fewer", minPrefix)
	}
	return store.Info{}, usageError(fmt.Errorf("no snapshot %.40q in this store", name), hint)
}

// snapshotError gives an error its exit status and its cure.
func snapshotError(ctx context.Context, err error) error {
	var done *exitError
	if err == nil || errors.As(err, &done) {
		return err
	}
	if ctx.Err() != nil {
		return &exitError{code: exitInterrupted, err: context.Cause(ctx)}
	}
	var locked *store.LockedError
	var unsupported *snapshot.UnsupportedError
	var changed *store.ChangedError
	var corrupt *snapshot.CorruptError
	e := &exitError{code: exitFailed, err: err}
	switch {
	case errors.As(err, &locked):
		e.code, e.hint = exitUnreachable, "one process uses a store at a time: wait for that one, or stop it"
	case errors.Is(err, snapshot.ErrNewerFormat):
		e.code, e.hint = exitUnreachable, "run the newer roost; nothing was changed"
	case errors.As(err, &unsupported):
		e.hint = "--skip-unsupported leaves out what can't be kept, and says what that was"
	case errors.As(err, &changed):
		e.hint = "create again when nobody writes there; what was read is not kept"
	case errors.As(err, &corrupt):
		e.hint = "pull the snapshot again from where it was pushed, or remove it"
	case errors.Is(err, store.ErrNotEmpty), errors.Is(err, store.ErrOverlap), errors.Is(err, fs.ErrNotExist):
		e.code = exitUsage
	case errors.Is(err, snapshot.ErrBusy):
		e.hint = "what uses it has to go first: roost snapshot rm for what stands on it, umount for what shows it"
	case errors.Is(err, store.ErrNotPacked):
		e.hint = "its agent packs it soon: wait until it is not held"
	case errors.Is(err, fs.ErrPermission):
		e.hint = "run it as root, or as the user whose files they are; nothing is left of what was begun"
	case errors.Is(err, syscall.EROFS):
		e.hint = "a store is written to whoever reads it: mount it for writing, or restore from a copy"
	case errors.Is(err, syscall.ENOSPC) && !toStdout(err):
		e.hint = "the disk is full; what was written is deleted again"
	}
	return e
}

// toStdout reports whether an error is that of printing a result.
func toStdout(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && path.Path == os.Stdout.Name()
}

// size is a number of bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// complete offers the ids of a store's snapshots.
func (o *opened) complete(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	s, err := o.open(cmd, false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close() //nolint:errcheck // only read from
	out := []string{latest}
	for _, in := range s.List() {
		out = append(out, fmt.Sprintf("%s\t%s in %d entries", in.ID, size(in.TreeBytes), in.Entries))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeSnaps completes the first n arguments by ids, the rest by directories.
func (o *opened) completeSnaps(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if n < 0 || len(args) < n {
			return o.complete(cmd, args, word)
		}
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
}
