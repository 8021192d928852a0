package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/transfer"
)

// rate is a moving average of how fast layers were encoded.
type rate struct{ plain, ms float64 }

func (r *rate) add(plain int64, ms float64) {
	if plain <= 0 || ms <= 0 {
		return
	}
	r.plain, r.ms = r.plain*0.7+float64(plain), r.ms*0.7+ms
}

// perSecond is plain bytes per second, 0 while unknown.
func (r *rate) perSecond() float64 {
	if r.ms == 0 {
		return 0
	}
	return r.plain / r.ms * 1000
}

// layerRef is what the coordinator wants to know of a packed layer. It weighs
// moving by StoredBytes, so that is all that a host with Base would fetch: of a
// layer against nothing the whole tree, though little of it was stored with it.
func layerRef(in store.Info, durable bool) api.LayerRef {
	l := api.LayerRef{
		ID: in.ID, Base: in.WireBase, Index: in.Index, IndexBytes: in.IndexBytes, Manifest: in.Manifest,
		StoredBytes: in.FetchBytes, TreeBytes: in.TreeBytes, Entries: in.Entries,
		PlainBytes: in.PlainBytes, EncodeMS: in.EncodeMS, Durable: durable,
	}
	if in.StoredBytes < in.FetchBytes {
		l.OwnBytes = in.StoredBytes
	}
	return l
}

// pack sees to it that a sealed snapshot becomes durable, behind everybody's back:
// it waits until the store has packed it, tells the coordinator its facts, and has
// it uploaded. A crash at any step is made good at the next start, from the state
// in the store.
func (a *Agent) pack(ctx context.Context, id snapshot.ID) {
	a.behind.Go(func() {
		in, err := a.o.Store.Packed(ctx, id)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Error("a snapshot can't be packed", "snapshot", id, "err", err)
				a.lost(id)
			}
			return
		}
		fail.Point("agent.packed")
		a.mu.Lock()
		a.encode.add(in.PlainBytes, in.EncodeMS)
		a.mu.Unlock()
		if in.State == store.Durable {
			return
		}
		if err := a.tell(ctx, layerRef(in, false)); err != nil {
			if ctx.Err() == nil {
				a.log.Info("a snapshot is not uploaded: the coordinator does not want it", "snapshot", id, "err", err)
			}
			return
		}
		a.enqueue(ctx, in)
	})
}

// tell reports the facts of a snapshot.
func (a *Agent) tell(ctx context.Context, l api.LayerRef) error {
	return a.retry(ctx, "report a snapshot", func(ctx context.Context) error {
		return a.o.Coordinator.PutSnapshot(ctx, l)
	})
}

// lost tells the coordinator that a snapshot can't be had here.
func (a *Agent) lost(id snapshot.ID) {
	if in, err := a.o.Store.Lookup(id); err != nil || !in.State.Usable() {
		a.hold(api.Holding{ID: id, Gone: true})
	}
}

// enqueue hands a packed snapshot to the uploader. A full queue is waited for.
func (a *Agent) enqueue(ctx context.Context, in store.Info) {
	it := transfer.Item{ID: in.ID}
	for _, b := range in.Blobs {
		if in.Folded && b.Digest == in.Index {
			continue // of no use to others
		}
		it.Blobs = append(it.Blobs, transfer.Blob{Digest: b.Digest, Bytes: b.Bytes})
	}
	for {
		err := a.up.Enqueue(it)
		if err == nil {
			return
		}
		if !errors.Is(err, transfer.ErrQueueFull) {
			a.log.Error("a snapshot can't be uploaded", "snapshot", in.ID, "err", err)
			return
		}
		if pause.For(ctx, time.Second) != nil {
			return
		}
	}
}

// durable is called by the uploader when the blob store has all of a layer. The
// coordinator hears of it first: the store may drop its packs afterwards.
//
// Crash states: until the coordinator's row, and until the store's, the next start
// finds a packed layer, uploads nothing, as all is there, and comes here again.
func (a *Agent) durable(ctx context.Context, id snapshot.ID) error {
	fail.Point("agent.uploaded")
	in, err := a.o.Store.Lookup(id)
	if err != nil {
		return err
	}
	if in.Folded { // a pack was offered again; the coordinator has the facts of those who made it
		return a.o.Store.MarkDurable(ctx, id)
	}
	if err := a.tell(ctx, layerRef(in, true)); err != nil {
		if notFound(err) {
			return fmt.Errorf("the coordinator does not know it: %w", snapshot.ErrNotFound)
		}
		return err
	}
	fail.Point("agent.durable")
	return a.o.Store.MarkDurable(ctx, id)
}

// resumePacking goes on with what an earlier process left. What is not reported
// yet comes after its report.
func (a *Agent) resumePacking(ctx context.Context) {
	unreported := map[snapshot.ID]bool{}
	for _, v := range a.o.Store.Views() {
		unreported[v.ID] = true
	}
	for _, in := range a.o.Store.List() {
		if (in.State == store.Sealed || in.State == store.Packed) && !unreported[in.ID] {
			a.pack(ctx, in.ID)
		}
	}
}
