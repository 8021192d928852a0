package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer/blob"
)

// storeOptions are those of commands that open the store of a stopped agent.
type storeOptions struct {
	config, dir string
	asJSON      bool
}

func (o *storeOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.config, "config", "", "the agent's configuration file: its store, and its coordinator's blob store")
	f.StringVar(&o.dir, "store-dir", "", "the store (agent.store_dir)")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
}

// open opens the store, and its agent's blob store if there is a configuration file
// that says where that is; nil otherwise.
func (o *storeOptions) open(ctx context.Context, errw io.Writer) (*store.Store, blob.Store, error) {
	cfg, err := loadConfig(o.config)
	if err != nil {
		return nil, nil, err
	}
	if o.dir != "" {
		cfg.Agent.StoreDir = o.dir
	}
	if o.config != "" && o.dir == "" {
		if err := ensureBacking(ctx, cfg.Agent.StoreDir, cfg.Store, hclog.NewNullLogger()); err != nil {
			return nil, nil, err
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Agent.StoreDir, "store.db")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, usageError(fmt.Errorf("%s is not a store: it has no store.db", cfg.Agent.StoreDir), "name one with --store-dir, or its agent's --config")
	}
	var blobs blob.Store
	if o.config != "" {
		if blobs, err = blobsOf(cfg.Agent); err != nil {
			return nil, nil, err
		}
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "store", Level: hclog.Warn, Output: errw})
	root := os.Geteuid() == 0
	st, err := store.Open(ctx, cfg.Agent.StoreDir, store.Options{
		Driver: func(dir string) (view.Driver, error) {
			return view.Open(cfg.Store.Driver, dir, view.Options{Log: log, Owners: root})
		},
		Log: log, Owners: root,
	})
	if err != nil && ctx.Err() != nil {
		return nil, nil, &exitError{code: exitInterrupted, err: context.Cause(ctx)}
	}
	if err != nil {
		return nil, nil, storeError(cfg.Agent, err)
	}
	return st, blobs, nil
}

// blobsOf is the blob store that an agent of this configuration uses.
func blobsOf(cfg configs.Agent) (blob.Store, error) {
	token, err := readToken(cfg.TokenFile)
	if err != nil {
		return nil, usageError(err, "agent.token_file of --config")
	}
	client, err := api.NewClient(cfg.Coordinator, token, nil)
	if err != nil {
		return nil, usageError(err, "agent.coordinator of --config")
	}
	return blob.NewHTTP(client.BlobsURL(), client.Token, nil), nil
}

// gcOptions are those of roost gc on a store.
type gcOptions struct {
	storeOptions
	target         string
	older          time.Duration
	dryRun, damage bool
	pin, unpin     []string
}

func (o *gcOptions) flags(f *pflag.FlagSet) {
	o.storeOptions.flags(f)
	f.StringVar(&o.target, "target", "", "evict until the layers take no more than this, such as 50GiB")
	f.DurationVar(&o.older, "older-than", 0, "evict only what was not used for so long, such as 336h")
	f.BoolVar(&o.damage, "damaged", false, "also delete damaged layers of which there is no other copy")
	f.StringSliceVar(&o.pin, "pin", nil, "never evict these snapshots")
	f.StringSliceVar(&o.unpin, "unpin", nil, "let go of these")
}

// gcReport is what is printed.
type gcReport struct {
	DryRun  bool          `json:"dry_run,omitempty"`
	Swept   []store.Swept `json:"swept,omitempty"`
	Usage   int64         `json:"usage"`            // before
	After   int64         `json:"after"`            // about
	Target  int64         `json:"target,omitempty"` // 0: none
	Reached bool          `json:"reached"`
	store.EvictReport
}

func (o *gcOptions) run(cmd *cobra.Command) error {
	if o.dir == "" && o.config == "" {
		return usageError(errors.New("no store is named"), "--store-dir DIR, or --config FILE of its agent; or --all for the state directory of roost run and roost up")
	}
	target := int64(-1)
	if o.target != "" {
		var err error
		if target, err = configs.ParseSize(o.target); err != nil {
			return usageError(fmt.Errorf("--target: %w", err), "")
		}
	}
	st, blobs, err := o.open(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // every change was committed
	if err := o.pins(cmd.Context(), st); err != nil {
		return err
	}
	r, err := o.collect(cmd.Context(), st, blobs, target)
	if o.asJSON {
		if err := printIndented(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	} else {
		r.print(cmd.OutOrStdout())
	}
	if err != nil && cmd.Context().Err() != nil {
		return &exitError{code: exitInterrupted, err: context.Cause(cmd.Context())}
	}
	if err != nil {
		return &exitError{code: exitUnreachable, err: err}
	}
	if !r.Reached {
		return &exitError{code: exitFailed}
	}
	return nil
}

// pins sets and ends pins.
func (o *gcOptions) pins(ctx context.Context, st *store.Store) error {
	for _, p := range []struct {
		ids []string
		on  bool
	}{{o.pin, true}, {o.unpin, false}} {
		for _, s := range p.ids {
			id, err := snapshot.ParseID(s)
			if err != nil {
				return usageError(err, idsHint(st))
			}
			if err := st.Pin(ctx, id, p.on); err != nil {
				return &exitError{code: exitUnreachable, err: err, hint: idsHint(st)}
			}
		}
	}
	return nil
}

// idsHint says where ids are to be seen.
func idsHint(st *store.Store) string {
	return "roost snapshot ls --store " + st.Dir() + " lists what there is"
}

// collect evicts; target < 0 is none.
func (o *gcOptions) collect(ctx context.Context, st *store.Store, blobs blob.Store, target int64) (gcReport, error) {
	r := gcReport{DryRun: o.dryRun, Swept: st.Swept(), Usage: st.Usage(), Reached: true}
	spec := store.EvictSpec{DryRun: o.dryRun, Damaged: o.damage}
	if o.older > 0 {
		spec.Before = time.Now().Add(-o.older)
	}
	if target >= 0 {
		r.Target = target
		spec.Enough = func(freed int64) bool { return r.Usage-freed <= target }
	}
	spec.Useless = target < 0 && o.older == 0
	if blobs != nil {
		spec.Confirm = func(ctx context.Context, _ snapshot.ID, list []store.Blob) error {
			return confirmBlobs(ctx, blobs, list)
		}
	}
	var err error
	r.EvictReport, err = st.Evict(ctx, spec)
	if r.After = r.Usage - r.Freed; !o.dryRun {
		r.After = st.Usage()
	}
	r.Reached = target < 0 || r.After <= target
	return r, err
}

func confirmBlobs(ctx context.Context, blobs blob.Store, list []store.Blob) error {
	for _, b := range list {
		n, err := blobs.Stat(ctx, b.Digest)
		if err != nil {
			return err
		}
		if n != b.Bytes {
			return fmt.Errorf("blob %s has %d bytes in the blob store, want %d", b.Digest, n, b.Bytes)
		}
	}
	return nil
}

func (r *gcReport) print(w io.Writer) {
	size := func(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
	for _, s := range r.Swept {
		fmt.Fprintf(w, "deleted %s, which a crash had left (%s)\n", s.File, size(s.Bytes))
	}
	would := ""
	if r.DryRun {
		would = "would be "
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if len(r.Evicted) > 0 {
		fmt.Fprintf(t, "%sEVICTED\tFREES\tLAST USED\tWHY\n", would)
		for _, e := range r.Evicted {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.ID, size(e.Bytes), humanize.Time(e.Used), e.Reason)
		}
	}
	if len(r.Kept) > 0 {
		if len(r.Evicted) > 0 {
			fmt.Fprintln(t, "\t\t\t")
		}
		fmt.Fprint(t, "KEPT\tLAYERS\tTAKE\tSUCH AS\n")
		for _, k := range r.Kept {
			by := ""
			if k.By != "" {
				by = " (by " + string(k.By) + ")"
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%s%s\n", k.Reason, k.Layers, size(k.Bytes), k.Example, by)
		}
	}
	t.Flush() //nolint:errcheck // a report that nobody reads
	fmt.Fprintf(w, "%d layer(s) %sevicted, %s; the layers take %s", len(r.Evicted), would, size(r.Freed), size(r.After))
	if r.Target > 0 || !r.Reached {
		fmt.Fprintf(w, ", the target is %s", size(r.Target))
		if !r.Reached {
			fmt.Fprint(w, ": NOT REACHED")
		}
	}
	fmt.Fprintln(w)
}
