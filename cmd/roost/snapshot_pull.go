package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/transfer"
)

// maxPulled bounds a chain of layers that somebody else's refs tell of.
const maxPulled = 10_000

func newSnapshotPull() *cobra.Command {
	var (
		e elsewhere
		w pulling
	)
	c := &cobra.Command{
		Use:   "pull SNAP URL",
		Short: "Fetch a pushed snapshot into a store",
		Long: `Fetches SNAP, by its whole id, and what it stands on, as far as the store lacks it;
what is damaged here is mended. It can be restored and mounted then. Nothing that
comes is believed: refs are checked against the key, everything else by digests.

With --unpack it comes ready to be mounted: content is unpacked as it arrives, and
its packs, which are where it came from, are not kept here. Of a chain of snapshots
that was pushed only SNAP itself is held then. --no-sync does not wait for the disk:
it can be mounted at once, and is fetched again if the machine stops before a later
pull --unpack of it, without --no-sync, has ended. --mount leaves it mounted at a
directory, as roost snapshot mount --detach does.

The key is that of the store that pushed (roost snapshot key), in --key-file; without
it the store's own. The first key that a new store sees becomes its own.
` + urlHelp + exitHelp,
		Example:           "  roost snapshot pull 3k9f… /mnt/usb/roost --store /srv/roost --key-file roost.key",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: e.completeSnaps(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.with(cmd, true, func(ctx context.Context, s *store.Store) error {
				return remoteError(e.pull(ctx, cmd, s, args[0], args[1], w))
			})
		},
	}
	e.flags(c)
	c.Flags().StringVar(&e.keyFile, "key-file", "", "file with the key of the store that pushed; default: this store's own")
	c.Flags().BoolVar(&w.unpack, "unpack", false, "unpack it on the way, to be mounted")
	c.Flags().BoolVar(&w.noSync, "no-sync", false, "with --unpack: don't wait until it is on the disk")
	c.Flags().StringVar(&w.mount, "mount", "", "with --unpack: leave it mounted read-only at this empty or absent directory")
	c.MarkFlagDirname("mount") //nolint:errcheck // the flag exists, one line above
	c.Flags().StringVar(&e.driver, "driver", "", "how it is unpacked: auto, or a driver's name (see roost doctor)")
	offer(c, "driver", configs.Drivers...)
	c.MarkFlagFilename("key-file") //nolint:errcheck // the flag exists, one line above
	return c
}

// pulling is what is to be done with what comes.
type pulling struct {
	unpack, noSync bool
	mount          string // where, "": nowhere
}

func (w *pulling) check() (err error) {
	switch {
	case w.noSync && !w.unpack:
		return usageError(errors.New("--no-sync is for what is unpacked"), "pull --unpack --no-sync")
	case w.mount != "" && !w.unpack:
		return usageError(errors.New("--mount is for what is unpacked"), "pull --unpack --mount DIR")
	case w.mount != "":
		w.mount, err = mountPoint(w.mount, true)
	}
	return err
}

func (e *elsewhere) pull(ctx context.Context, cmd *cobra.Command, s *store.Store, name, where string, w pulling) error {
	if err := w.check(); err != nil {
		return err
	}
	id, err := snapshot.ParseID(name)
	if err != nil {
		return usageError(err, "what is elsewhere must be named by its whole id")
	}
	key, err := e.key(s)
	if err != nil {
		return err
	}
	r, done, err := e.connect(where, false)
	if err != nil {
		return err
	}
	defer done()
	chain, err := chainOf(ctx, s, r, id, key)
	if err != nil {
		return err
	}
	if err := s.SetKey(key); err != nil { // it has fitted
		return err
	}
	p := &store.Progress{}
	stop := e.progress(cmd, "pulling", p)
	defer stop()
	specs := specsOf(chain, key)
	for i := range specs {
		specs[i].Later = w.noSync
	}
	if err := bring(ctx, s, r, specs, w.unpack, p); err != nil {
		return err
	}
	if err := e.settle(ctx, s, id, &w); err != nil {
		return err
	}
	stop()
	in, err := s.Lookup(id)
	if err != nil {
		return err
	}
	if !e.asJSON {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
		return err
	}
	return printJSON(cmd.OutOrStdout(), struct {
		Snapshot     snapshot.ID `json:"snapshot"`
		Entries      int64       `json:"entries"`
		Bytes        int64       `json:"bytes"`
		Layers       int         `json:"layers"`
		BytesFetched int64       `json:"bytes_fetched"`
		Dir          string      `json:"dir,omitempty"`
		WallMS       float64     `json:"wall_ms"`
	}{id, in.Entries, in.TreeBytes, len(chain), p.Done.Load(), w.mount, e.wallMS()})
}

// settle does with what came, or was here, what is left to be done.
func (e *elsewhere) settle(ctx context.Context, s *store.Store, id snapshot.ID, w *pulling) (err error) {
	if w.unpack && !w.noSync { // an earlier pull may have left that
		err = s.SyncLater(ctx, id)
	}
	if err != nil || w.mount == "" {
		return err
	}
	if err := s.Materialise(ctx, id, nil); err != nil { // it was here already, stored only
		return err
	}
	w.mount, err = e.leave(ctx, s, id, w.mount)
	return err
}

// specsOf says what to fetch, a base before what stands on it.
func specsOf(chain []transfer.Ref, key []byte) []store.ImportSpec {
	var out []store.ImportSpec
	for _, l := range slices.Backward(chain) {
		out = append(out, store.ImportSpec{
			ID: l.Snapshot, Base: l.Base, Parents: l.Parents, Index: l.Index, IndexBytes: l.IndexBytes,
			Manifest: l.Manifest, DomainKey: key,
		})
	}
	return out
}

// bring fetches a chain: all of it, stored only, or its last snapshot, unpacked.
func bring(ctx context.Context, s *store.Store, r depot, chain []store.ImportSpec, unpack bool, p *store.Progress) error {
	if len(chain) == 0 {
		return nil
	}
	fetch := transfer.NewFetcher(transfer.FetcherOptions{Blobs: r})
	if !unpack {
		for _, spec := range chain {
			if err := s.Pull(ctx, spec, fetch.Open, p); err != nil {
				return err
			}
		}
		return nil
	}
	if chain[0].Base != "" { // held, but maybe stored only
		if err := s.Materialise(ctx, chain[0].Base, nil); err != nil {
			return err
		}
	}
	open := func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
		rc, err := fetch.Open(ctx, d, off, n)
		if err != nil {
			return nil, err
		}
		return &counted{ReadCloser: rc, n: &p.Done}, nil
	}
	return s.ImportChain(ctx, chain, open, nil)
}

// counted counts what is read.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// key is what refs and chunks are checked with.
func (e *elsewhere) key(s *store.Store) ([]byte, error) {
	if e.keyFile == "" {
		key, err := s.Key()
		if errors.Is(err, store.ErrNoKey) {
			err = usageError(err, "--key-file FILE: what roost snapshot key wrote where the snapshot was made")
		}
		return key, err
	}
	fi, err := os.Stat(e.keyFile)
	if err != nil {
		return nil, usageError(err, "")
	}
	if fi.Mode().Perm()&0o077 != 0 && !ignoreModes {
		return nil, usageError(fmt.Errorf("key file %s can be read by others (mode %04o): chmod 600 it", e.keyFile, fi.Mode().Perm()), "")
	}
	key, err := store.ReadKey(e.keyFile)
	if err != nil {
		return nil, usageError(err, "")
	}
	return key, nil
}

// chainOf reads the refs of what is missing here for id, id first.
func chainOf(ctx context.Context, s *store.Store, r depot, id snapshot.ID, key []byte) ([]transfer.Ref, error) {
	var chain []transfer.Ref
	seen := map[snapshot.ID]bool{}
	for at := id; at != ""; {
		if in, err := s.Lookup(at); err == nil && in.State.Usable() {
			break
		}
		if seen[at] || len(chain) == maxPulled {
			return nil, &snapshot.CorruptError{What: "ref", Name: string(at), Why: "what it stands on never ends"}
		}
		seen[at] = true
		b, err := r.GetRef(ctx, at)
		if errors.Is(err, snapshot.ErrNotFound) {
			return nil, usageError(fmt.Errorf("there is no snapshot %s: %w", at, err), "was it pushed there?")
		}
		if err != nil {
			return nil, err
		}
		ref, err := transfer.ParseRef(at, b, key)
		if err != nil {
			return nil, &exitError{code: exitFailed, err: err, hint: "--key-file: what roost snapshot key wrote where it was made"}
		}
		chain = append(chain, ref)
		at = ref.Base
	}
	return chain, nil
}
