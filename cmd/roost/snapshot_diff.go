package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot/store"
)

// differs is a line of diff with --json.
type differs struct {
	Change string   `json:"change"`
	Path   string   `json:"path"`
	Bytes  string   `json:"path_base64,omitempty"` // where the path is not UTF-8
	Type   string   `json:"type"`
	What   []string `json:"what,omitempty"`
}

func newSnapshotDiff() *cobra.Command {
	var (
		o      opened
		status bool
	)
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "List what differs between two snapshots",
		Long: `Prints a line for each path that the two snapshots don't have alike: A path (only in
B), D path (only in A), M path (in both). Files are compared by content, and by all
that is kept of them; --json says in what they differ. A directory's mtime counts.` + exitHelp,
		Example:           "  roost snapshot diff 3k9f latest --store /var/backups/roost",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: o.completeSnaps(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				return o.diff(ctx, cmd, s, args[0], args[1], status)
			})
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&status, "exit-code", false, "end with 1 if there is a difference")
	return c
}

func (o *opened) diff(ctx context.Context, cmd *cobra.Command, s *store.Store, first, second string, status bool) error {
	a, err := resolve(s, first)
	if err != nil {
		return err
	}
	b, err := resolve(s, second)
	if err != nil {
		return err
	}
	w, n := cmd.OutOrStdout(), 0
	err = s.Compare(ctx, a.ID, b.ID, func(d store.Difference) error {
		n++
		if o.asJSON {
			return printJSON(w, jsonDifference(d))
		}
		_, err := fmt.Fprintf(w, "%s %s\n", d.Change, showName(d.Path))
		return err
	})
	if err == nil && status && n > 0 {
		return &exitError{code: exitFailed}
	}
	return err
}

func jsonDifference(d store.Difference) differs {
	out := differs{Change: d.Change, Path: d.Path, Type: d.Type.String(), What: d.What}
	if out.Path == "" {
		out.Path = "."
	}
	if !utf8.ValidString(d.Path) {
		out.Bytes = base64.StdEncoding.EncodeToString([]byte(d.Path))
	}
	return out
}

// showName makes a path fit for a line and a terminal.
func showName(p string) string {
	switch {
	case p == "":
		return "."
	case !utf8.ValidString(p) || strings.HasPrefix(p, `"`) ||
		strings.ContainsFunc(p, func(r rune) bool { return unicode.IsControl(r) || !unicode.IsGraphic(r) }):
		return strconv.Quote(p)
	}
	return p
}
