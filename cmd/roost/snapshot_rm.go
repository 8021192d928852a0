package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

func newSnapshotRm() *cobra.Command {
	var (
		o   opened
		dry bool
	)
	c := &cobra.Command{
		Use:   "rm SNAP...",
		Short: "Delete snapshots from a store",
		Long: `Deletes snapshots, and what of their content no other needs. Those that were made on
one of them with --base stay whole: their lists are made anew before it goes.
Refused while one of them is mounted. roost snapshot prune deletes by age.` + exitHelp,
		Example:           "  roost snapshot rm 3k9f --store /var/backups/roost",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: o.completeSnaps(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				var list []store.Info
				for _, name := range args { // all of them first: nothing goes if one is mistyped
					in, err := resolve(s, name)
					if err != nil {
						return err
					}
					list = append(list, in)
				}
				return o.remove(ctx, cmd, s, list, dry)
			})
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be deleted")
	return c
}

// remove deletes snapshots, the newest first, so that few of those that stay need be
// freed of what goes.
func (o *opened) remove(ctx context.Context, cmd *cobra.Command, s *store.Store, list []store.Info, dry bool) error {
	goes := map[snapshot.ID]bool{}
	for _, in := range list {
		goes[in.ID] = true
	}
	all := s.List()
	slices.Reverse(all)
	if !dry {
		defer s.Tidy()
	}
	for _, in := range all {
		if !goes[in.ID] {
			continue
		}
		if !dry {
			if err := drop(ctx, s, in.ID); err != nil {
				return err
			}
		}
		if err := o.sayDeleted(cmd, in.ID, dry); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes a snapshot. What was made on it stands alone then.
func drop(ctx context.Context, s *store.Store, id snapshot.ID) error {
	for _, on := range s.OnTop(id) {
		if err := s.Detach(ctx, on); err != nil {
			return err
		}
	}
	return s.Drop(ctx, id)
}

func (o *opened) sayDeleted(cmd *cobra.Command, id snapshot.ID, dry bool) error {
	var err error
	switch w := cmd.OutOrStdout(); {
	case o.asJSON && dry:
		err = printJSON(w, map[string]any{"deleted": id, "dry_run": true})
	case o.asJSON:
		err = printJSON(w, map[string]any{"deleted": id})
	case dry:
		_, err = fmt.Fprintln(w, "would delete", id)
	default:
		_, err = fmt.Fprintln(w, "deleted", id)
	}
	return err
}
