package main

import (
	"context"
	"fmt"
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
	var o opened
	c := &cobra.Command{
		Use:   "ls",
		Short: "List the snapshots of a store, the oldest first",
		Long: `Lists id, date, number of entries, size of the tree, what the store has for it and
what it was made on. A pack that several need counts for the oldest of them. With
--json one object in a line for each.` + exitHelp,
		Example:           "  roost snapshot ls --store /var/backups/roost",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd, false, func(_ context.Context, s *store.Store) error { return o.list(cmd, s) })
		},
	}
	o.flags(c)
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
			l.Base = in.Parents[0]
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
