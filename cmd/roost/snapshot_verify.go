package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

func newSnapshotVerify() *cobra.Command {
	var o opened
	c := &cobra.Command{
		Use:   "verify [SNAP...]",
		Short: "Read snapshots back and compare them with their digests",
		Long: `Reads everything that the store has of the given snapshots, and of those that they
stand on, and compares it with the digests: index, manifest, packs, each chunk, each
unpacked file. Without SNAP all are verified. Ends with 1 if anything is damaged;
pull mends a snapshot from where it was pushed.` + exitHelp,
		Example: "  roost snapshot verify --store /var/backups/roost\n  roost snapshot verify latest",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, w string) ([]string, cobra.ShellCompDirective) {
			return o.complete(cmd, args, w)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error { return o.verify(ctx, cmd, s, args) })
		},
	}
	o.flags(c)
	return c
}

func (o *opened) verify(ctx context.Context, cmd *cobra.Command, s *store.Store, names []string) error {
	var ids []snapshot.ID
	for _, n := range names {
		in, err := resolve(s, n)
		if err != nil {
			return err
		}
		ids = append(ids, in.ID)
	}
	if len(names) == 0 {
		for _, in := range s.List() {
			ids = append(ids, in.ID)
		}
	}
	p := &store.Progress{}
	v := verdicts{w: cmd.OutOrStdout(), asJSON: o.asJSON}
	if w := cmd.ErrOrStderr(); !o.asJSON && isTerminal(w) {
		v.clear = func() { fmt.Fprint(w, "\r\x1b[K") }
	}
	stop := o.progress(cmd, "verifying", p)
	defer stop()
	if err := s.VerifyAll(ctx, ids, p, v.tell); err != nil {
		return err
	}
	stop()
	if v.bad > 0 {
		return &exitError{
			code: exitFailed, err: fmt.Errorf("%d of %d %s damaged", v.bad, v.good+v.bad, plural(v.good+v.bad, "snapshot")),
			hint: "roost snapshot pull mends one from where it was pushed",
		}
	}
	return v.unsaid
}

// verdicts prints a line for each snapshot that was verified, and counts.
type verdicts struct {
	w         io.Writer
	asJSON    bool
	good, bad int
	clear     func() // takes the line of progress away; nil: there is none
	unsaid    error  // the first that said that standard output is gone
}

// verified is a line of verify with --json.
type verified struct {
	Snapshot snapshot.ID `json:"snapshot"`
	OK       bool        `json:"ok"`
	Error    string      `json:"error,omitempty"`
}

// tell prints what was found of one.
func (v *verdicts) tell(id snapshot.ID, err error) {
	line := verified{Snapshot: id, OK: err == nil}
	if err == nil {
		v.good++
	} else {
		v.bad++
		line.Error = err.Error()
	}
	if v.clear != nil {
		v.clear()
	}
	var werr error
	switch {
	case v.asJSON:
		werr = printJSON(v.w, line)
	case err == nil:
		_, werr = fmt.Fprintf(v.w, "ok       %s\n", id)
	default:
		_, werr = fmt.Fprintf(v.w, "DAMAGED  %s  %v\n", id, err)
	}
	if v.unsaid == nil {
		v.unsaid = werr
	}
}
