package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
)

func newSnapshotPush() *cobra.Command {
	var e elsewhere
	c := &cobra.Command{
		Use:   "push SNAP URL",
		Short: "Copy a snapshot, and what it stands on, to another place",
		Long: `Copies what is missing there of SNAP and of all that it stands on: packs, indexes,
and a small ref for each, by which pull finds them. Content is compressed, not
encrypted; names of chunks say nothing without the store's key.
` + urlHelp + exitHelp,
		Example:           "  roost snapshot push latest /mnt/usb/roost --store /var/backups/roost\n  ROOST_TOKEN=… roost snapshot push latest https://ci.example.org/v1/blobs",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: e.completeSnaps(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				return remoteError(e.push(ctx, cmd, s, args[0], args[1]))
			})
		},
	}
	e.flags(c)
	return c
}

func (e *elsewhere) push(ctx context.Context, cmd *cobra.Command, s *store.Store, name, where string) error {
	in, err := resolve(s, name)
	if err != nil {
		return err
	}
	chain, err := s.Chain(in.ID)
	if err != nil {
		return err
	}
	r, done, err := e.connect(where, true)
	if err != nil {
		return err
	}
	defer done()
	p := &store.Progress{}
	stop := e.progress(cmd, "pushing", p)
	defer stop()
	var sent int64
	for _, l := range chain {
		n, err := pushLayer(ctx, s, r, &l, p)
		sent += n
		if err != nil {
			return err
		}
	}
	stop()
	if !e.asJSON {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s sent for %d %s\n", in.ID, size(sent), len(chain), plural(len(chain), "layer"))
		return err
	}
	return printJSON(cmd.OutOrStdout(), struct {
		Snapshot  snapshot.ID     `json:"snapshot"`
		Manifest  snapshot.Digest `json:"manifest"`
		Layers    int             `json:"layers"`
		BytesSent int64           `json:"bytes_sent"`
		WallMS    float64         `json:"wall_ms"`
	}{in.ID, in.Manifest, len(chain), sent, e.wallMS()})
}

// pushLayer sends what is missing of one layer, and its ref last. Of what was pulled
// with --unpack nothing is sent: it must be there already.
func pushLayer(ctx context.Context, s *store.Store, r depot, in *store.Link, p *store.Progress) (int64, error) {
	key, err := s.KeyOf(in.ID)
	if err != nil {
		return 0, err
	}
	if (in.Folded || len(in.Absent) > 0) && leadsTo(ctx, r, in.ID, in.Manifest, key) {
		return 0, nil
	}
	for _, b := range in.Absent {
		if n, err := r.Stat(ctx, b.Digest); err != nil && !errors.Is(err, snapshot.ErrNotFound) {
			return 0, err
		} else if err != nil || n != b.Bytes {
			return 0, fmt.Errorf("snapshot %s: %d of its packs are not here, and not all of them there: %w", in.ID, len(in.Absent), snapshot.ErrNotFound)
		}
	}
	ref := transfer.Ref{
		Snapshot: in.ID, Base: in.WireBase, Parents: in.Parents, Index: in.Index, IndexBytes: in.IndexBytes,
		Manifest: in.Manifest, Entries: in.Entries, Bytes: in.TreeBytes, StoredBytes: in.StoredBytes,
		MadeMS: in.Made.UnixMilli(),
	}
	blobs := make([]transfer.Blob, len(in.Blobs))
	for i, b := range in.Blobs {
		blobs[i] = transfer.Blob{Digest: b.Digest, Bytes: b.Bytes}
	}
	o := transfer.PushOptions{
		Source: s, Blobs: r, Sent: &p.Done, Missing: func(n int64) { p.Total.Add(n) },
	}
	sent, err := transfer.Push(ctx, o, blobs)
	if err != nil {
		return sent, err
	}
	return sent, putRef(ctx, r, ref, key)
}

// putRef leaves a ref, unless there is one that leads to the same: who pulled a snapshot
// has another date of it than who made it, and other figures for people.
func putRef(ctx context.Context, r depot, ref transfer.Ref, key []byte) error {
	b, err := ref.Encode(key)
	if err != nil {
		return err
	}
	err = r.PutRef(ctx, ref.Snapshot, b)
	var other *snapshot.CorruptError
	if !errors.As(err, &other) {
		return err
	}
	if leadsTo(ctx, r, ref.Snapshot, ref.Manifest, key) {
		return nil
	}
	return err
}

// leadsTo reports whether a ref that somebody with the key left leads to that tree.
func leadsTo(ctx context.Context, r depot, id snapshot.ID, tree snapshot.Digest, key []byte) bool {
	b, err := r.GetRef(ctx, id)
	if err != nil {
		return false
	}
	ref, err := transfer.ParseRef(id, b, key)
	return err == nil && ref.Manifest == tree
}

// remoteError gives an error of a remote its exit status.
func remoteError(err error) error {
	var status *blob.StatusError
	var silent *url.Error
	var done *exitError
	switch {
	case err == nil || errors.As(err, &done) || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &status):
	case errors.As(err, &silent):
		at := "it" // the whole address is that of one blob
		if u, err := url.Parse(silent.URL); err == nil {
			at = u.Scheme + "://" + u.Host
		}
		return &exitError{code: exitUnreachable, err: fmt.Errorf("%s does not answer: %w", at, silent.Err)}
	default:
		return err
	}
	e := &exitError{code: exitUnreachable, err: err}
	if status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden {
		e.code, e.hint = exitRefused, "a token comes from --token-file or $ROOST_TOKEN, for S3 the AWS_… variables count"
	}
	return e
}
