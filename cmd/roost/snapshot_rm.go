package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot/store"
)

func newSnapshotRm() *cobra.Command {
	var o opened
	c := &cobra.Command{
		Use:   "rm SNAP...",
		Short: "Delete snapshots from a store",
		Long: `Deletes snapshots, and what of their content no other needs. Refused while another
snapshot was made on it with --base and is still there: delete that one first.` + exitHelp,
		Example:           "  roost snapshot rm 3k9f --store /var/backups/roost",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: o.completeSnaps(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				for _, name := range args {
					in, err := resolve(s, name)
					if err != nil {
						return err
					}
					if err := s.Drop(ctx, in.ID); err != nil {
						return err
					}
					if !o.asJSON {
						fmt.Fprintln(cmd.OutOrStdout(), "deleted", in.ID)
					} else if err := printJSON(cmd.OutOrStdout(), map[string]any{"deleted": in.ID}); err != nil {
						return err
					}
				}
				s.Tidy()
				return nil
			})
		},
	}
	o.flags(c)
	return c
}
