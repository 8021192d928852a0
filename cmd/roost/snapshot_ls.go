package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// listed is a line of ls with --json.
type listed struct {
	Snapshot    snapshot.ID `json:"snapshot"`
	MadeMS      int64       `json:"made_ms"` // since 1970
	State       store.State `json:"state"`
	Entries     int64       `json:"entries"`
	Bytes       int64       `json:"bytes"`
	BytesStored int64       `json:"bytes_stored"`
	Base        snapshot.ID `json:"base,omitempty"`
	StoredOnly  bool        `json:"stored_only,omitempty"`
	Error       string      `json:"error,omitempty"`
}

func newSnapshotLs() *cobra.Command {
	var (
		o    opened
		long bool
	)
	c := &cobra.Command{
		Use:   "ls [SNAP [PATH]]",
		Short: "List the snapshots of a store, or what is in one",
		Long: `Without SNAP: lists the snapshots, the oldest first: id, date, number of entries, size of the tree, what the store has for it and
what it was made on. A pack that several need counts for the oldest of them. With
--json one object in a line for each.

With SNAP: lists the paths in that snapshot, with PATH those at and below it. -l adds
type, mode, owner, size and date; --json has all that in an object per line.` + exitHelp,
		Example:           "  roost snapshot ls --store /var/backups/roost\n  roost snapshot ls -l latest etc/ssh",
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: o.completeSnaps(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				if len(args) == 0 {
					return o.list(cmd, s)
				}
				return o.contents(ctx, cmd, s, args[0], strings.Join(args[1:], ""), long)
			})
		},
	}
	o.flags(c)
	c.Flags().BoolVarP(&long, "long", "l", false, "of SNAP: print type, mode, owner, size and date, too")
	return c
}

func (o *opened) list(cmd *cobra.Command, s *store.Store) error {
	w := cmd.OutOrStdout()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if !o.asJSON {
		fmt.Fprintln(t, "SNAPSHOT\tDATE\tENTRIES\tSIZE\tSTORED\tBASE\tSTATE")
	}
	counted := map[snapshot.Digest]bool{}
	for _, in := range s.List() {
		l := listed{
			Snapshot: in.ID, MadeMS: in.Made.UnixMilli(), State: in.State, Entries: in.Entries, Bytes: in.TreeBytes,
			StoredOnly: in.StoredOnly, Error: in.Err,
		}
		for _, b := range in.Blobs {
			if !counted[b.Digest] {
				counted[b.Digest] = true
				l.BytesStored += b.Bytes
			}
		}
		if len(in.Parents) > 0 {
			if _, err := s.Lookup(in.Parents[0]); err == nil { // else it was deleted since
				l.Base = in.Parents[0]
			}
		}
		if o.asJSON {
			if err := printJSON(w, l); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", l.Snapshot, in.Made.Local().Format(time.DateTime), l.Entries, size(l.Bytes), size(l.BytesStored), short(l.Base), l.State)
	}
	return t.Flush()
}

// short is an id as people use it.
func short(id snapshot.ID) string {
	if id == "" {
		return "-"
	}
	return string(id[:min(len(id), 8)])
}
