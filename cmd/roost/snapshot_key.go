package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot/store"
)

func newSnapshotKey() *cobra.Command {
	var o opened
	c := &cobra.Command{
		Use:   "key FILE",
		Short: "Write a store's key to a file, for a pull elsewhere",
		Long: `Writes the key of the store's snapshots to FILE, which only its owner can read. Who
pulls needs it (--key-file); who keeps what was pushed must not have it: with it he
could find out what is in there, and forge snapshots.` + exitHelp,
		Example: "  roost snapshot key roost.key --store /var/backups/roost",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(_ context.Context, s *store.Store) error {
				key, err := s.Key()
				if errors.Is(err, store.ErrNoKey) {
					return usageError(err, "its snapshots, if any, were made by an agent, whose domains have their own")
				}
				if err != nil {
					return err
				}
				if _, err := os.Lstat(args[0]); !errors.Is(err, fs.ErrNotExist) {
					return usageError(fmt.Errorf("%s is there already", args[0]), "nothing is overwritten")
				}
				err = store.WriteKey(args[0], key)
				var path *fs.PathError
				if errors.As(err, &path) { // of a temporary name
					return usageError(fmt.Errorf("key file %s can't be written: %w", args[0], path.Err), "")
				}
				if err != nil || !o.asJSON {
					return err
				}
				return printJSON(cmd.OutOrStdout(), map[string]string{"file": args[0]})
			})
		},
	}
	o.flags(c)
	return c
}
