package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

func newSnapshotRestore() *cobra.Command {
	var (
		o    opened
		only []string
	)
	c := &cobra.Command{
		Use:   "restore SNAP DIR",
		Short: "Write a snapshot's tree to a directory",
		Long: `Writes the exact tree of SNAP to DIR, which must be absent or empty: all types of
entries, hard links, holes, attributes, times to the nanosecond; owners too when
run as root. Every byte is checked against its digest before it is written.

The tree grows in DIR.partial-ID beside DIR and gets its name when it is whole and
synced: DIR never shows half of it. Ctrl-C deletes what there is; what a killed
restore has left, the next restore of that snapshot to DIR deletes.

With --path only that file, or that directory with all below it, is written, to its
place in DIR, and the directories that lead there. PATH is that in the directory
which was saved; roost snapshot ls SNAP lists them.` + exitHelp,
		Example:           "  roost snapshot restore latest /tmp/back --store /var/backups/roost\n  roost snapshot restore latest /tmp/back --path etc/ssh --path etc/fstab",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: o.completeSnaps(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				return o.restore(ctx, cmd, s, args[0], args[1], only)
			})
		},
	}
	o.flags(c)
	c.Flags().StringArrayVar(&only, "path", nil, "restore only this `PATH`, to its place in DIR (repeatable)")
	return c
}

func (o *opened) restore(ctx context.Context, cmd *cobra.Command, s *store.Store, name, dir string, only []string) error {
	in, err := resolve(s, name)
	if err != nil {
		return err
	}
	if to, err := os.Stat(dir); err == nil {
		if here, err := os.Stat("."); err == nil && os.SameFile(to, here) {
			return usageError(fmt.Errorf("%s is the working directory, which would be replaced by another one of its name", dir), "restore to a directory in it")
		}
	}
	spec := store.RestoreSpec{Snapshot: in.ID, Dir: dir, Progress: &store.Progress{}}
	for _, p := range only {
		at, err := pathIn(p)
		if err != nil {
			return err
		}
		spec.Only = append(spec.Only, at)
	}
	stop := o.progress(cmd, "restoring", spec.Progress)
	done, err := s.Restore(ctx, spec)
	stop()
	var none *store.NoPathError
	if errors.As(err, &none) {
		return noPath(none.Path)
	}
	if err != nil {
		return err
	}
	if !o.asJSON {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s in %d entries\n", dir, size(done.TreeBytes), done.Entries)
		return err
	}
	return printJSON(cmd.OutOrStdout(), struct {
		Snapshot snapshot.ID `json:"snapshot"`
		Dir      string      `json:"dir"`
		Entries  int64       `json:"entries"`
		Bytes    int64       `json:"bytes"`
		WallMS   float64     `json:"wall_ms"`
	}{done.ID, dir, done.Entries, done.TreeBytes, o.wallMS()})
}
