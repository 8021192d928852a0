package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/transfer"
)

// verifyOptions are those of roost verify.
type verifyOptions struct {
	storeOptions
	rate     string
	noRepair bool
	quiet    bool
}

func newVerify() *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify [SNAPSHOT...]",
		Short: "Read all that a store keeps, compare it with its digests, repair what is damaged",
		Long: `Reads every index, manifest, pack and file of the store of a host whose agent is
stopped. What is damaged is repaired from another copy: from the packs, from the
files, and from the blob store if --config says where that is. What no copy
repairs is named and not used any more; the damaged files lie in bad/.

A running agent does the same by itself, slowly: see scrub_interval and scrub_rate
in the section [store] of its configuration.` + exitHelp + `
For verify, 1 says that a damage is left.`,
		Example: `  roost verify --config /etc/roost/config.toml
  roost verify --store-dir /var/lib/roost/store --no-repair --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := c.Flags()
	o.flags(f)
	f.StringVar(&o.rate, "rate", "0", "read no faster than this, such as 100MiB per second; 0: as fast as it goes")
	f.BoolVar(&o.noRepair, "no-repair", false, "only look; what is damaged is not used any more all the same")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress")
	return c
}

func (o *verifyOptions) run(cmd *cobra.Command, args []string) error {
	if o.dir == "" && o.config == "" {
		return usageError(errors.New("no store is named"), "--store-dir DIR, or --config FILE of its agent")
	}
	spec := store.ScrubOptions{NoRepair: o.noRepair}
	for _, a := range args {
		id, err := snapshot.ParseID(a)
		if err != nil {
			return usageError(err, "name snapshots by their ids; roost snapshot ls lists them")
		}
		spec.IDs = append(spec.IDs, id)
	}
	var err error
	if spec.Rate, err = configs.ParseSize(o.rate); err != nil {
		return usageError(fmt.Errorf("--rate: %w", err), "")
	}
	st, blobs, err := o.open(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // every change was committed
	for _, id := range spec.IDs {
		if _, err := st.Lookup(id); err != nil {
			return usageError(err, idsHint(st))
		}
	}
	if blobs != nil {
		spec.Open = transfer.NewFetcher(transfer.FetcherOptions{Blobs: blobs, Stall: 10 * time.Second}).Open
		spec.Size = blobs.Stat
	}
	if !o.quiet && !o.asJSON {
		spec.Progress = progressTo(cmd.ErrOrStderr())
	}
	r, err := st.Scrub(cmd.Context(), spec)
	if perr := o.print(cmd.OutOrStdout(), &r); perr != nil {
		return perr
	}
	switch {
	case err != nil && cmd.Context().Err() != nil:
		return &exitError{code: exitInterrupted, err: context.Cause(cmd.Context())}
	case err != nil:
		return &exitError{code: exitUnreachable, err: err}
	case r.Left() > 0 || len(r.Suspect) > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}

// progressTo prints a line now and then, over itself on a terminal.
func progressTo(w io.Writer) func(store.ScrubProgress) {
	began := time.Now()
	last := began
	return func(p store.ScrubProgress) {
		now := time.Now()
		every, end := 10*time.Second, "\n"
		if isTerminal(w) {
			every, end = 200*time.Millisecond, "\r"
		}
		if p.Done == p.Layers && now.Sub(began) > every {
			end = "\n"
		} else if now.Sub(last) < every {
			return
		}
		last = now
		rate := float64(p.Bytes) / max(now.Sub(began).Seconds(), 1e-3)
		fmt.Fprintf(w, "%d of %d layers, %s, %s/s, %d damage(s)   %s", p.Done, p.Layers,
			humanize.IBytes(uint64(p.Bytes)), humanize.IBytes(uint64(rate)), p.Damages, end)
	}
}

func (o *verifyOptions) print(w io.Writer, r *store.ScrubReport) error {
	if o.asJSON {
		return printIndented(w, r)
	}
	for _, d := range r.Damages {
		fmt.Fprintf(w, "DAMAGED  %s %q of snapshot %s: %s\n", d.What, d.Name, d.Layer, d.Why)
		if d.From != "" {
			fmt.Fprintf(w, "         repaired from: %s\n", d.From)
		} else {
			fmt.Fprintf(w, "         NOT REPAIRED: %s\n", d.Left)
		}
	}
	fmt.Fprintf(w, "%d layer(s), %s read", r.Layers, humanize.IBytes(uint64(max(r.Bytes, 0))))
	if r.Unpacked > 0 {
		fmt.Fprintf(w, "; %d not packed yet, so without digests to compare with", r.Unpacked)
	}
	if n := len(r.Damages); n > 0 {
		fmt.Fprintf(w, "; %d damage(s), %d repaired", n, n-r.Left())
	}
	if n := len(r.Restored); n > 0 {
		fmt.Fprintf(w, "; %d layer(s) usable again", n)
	}
	if n := len(r.Suspect); n > 0 {
		fmt.Fprintf(w, "; %d NOT USABLE, such as %s", n, r.Suspect[0])
	}
	fmt.Fprintln(w)
	return nil
}
