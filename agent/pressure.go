package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// Room says how much of the disk a store may have. The zero value works.
type Room struct {
	// MaxBytes is the most that the store's layers may take; 0: all of the file system.
	MaxBytes int64
	// High and Low are marks in percent, of the file system's bytes, of its inodes, and
	// of MaxBytes: above High layers are evicted until all are below Low. Default 90
	// and 80.
	High, Low int
	// MinFree is what must be free on the file system for jobs to be taken; default
	// 1 GiB, but never more than a twentieth of the file system.
	MinFree int64
	// Every is how often it is looked at. Default 10 s.
	Every time.Duration
	// Disk measures the file system of a directory. Default: statfs.
	Disk func(dir string) Disk
}

// Disk is a file system in numbers; zero is what is not known.
type Disk struct {
	Used, Free, Total   int64 // bytes; Free is what is there for us
	Inodes, InodesTotal int64 // used and in all
}

func (r Room) withDefaults() Room {
	if r.High <= 0 || r.High > 100 {
		r.High = 90
	}
	if r.Low <= 0 || r.Low >= r.High {
		r.Low = max(r.High-10, 1)
	}
	if r.MinFree <= 0 {
		r.MinFree = 1 << 30
	}
	if r.Every <= 0 {
		r.Every = 10 * time.Second
	}
	if r.Disk == nil {
		r.Disk = diskUse
	}
	return r
}

// over is by how many bytes more than percent of something is in use.
func (r Room) over(percent int, d Disk, usage int64) int64 {
	over := int64(0)
	if all := d.Used + d.Free; all > 0 { // what root alone may have is not ours
		over = max(over, d.Used-all/100*int64(percent))
	}
	if r.MaxBytes > 0 {
		over = max(over, usage-r.MaxBytes/100*int64(percent))
	}
	return over
}

// crowded reports whether more than percent of the inodes are in use.
func (d Disk) crowded(percent int) bool {
	return d.InodesTotal > 0 && d.Inodes > d.InodesTotal/100*int64(percent)
}

// full reports whether there is no room for another job, and why.
func (r Room) full(d Disk, usage int64) string {
	floor := min(r.MinFree, d.Total/20)
	switch {
	case d.Total > 0 && d.Free < floor:
		return fmt.Sprintf("%s free, less than %s", size(d.Free), size(floor))
	case d.crowded(98):
		return fmt.Sprintf("%d of %d inodes in use", d.Inodes, d.InodesTotal)
	case r.MaxBytes > 0 && usage >= r.MaxBytes:
		return fmt.Sprintf("the store has %s, and may have %s", size(usage), size(r.MaxBytes))
	}
	return ""
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// watchRoom evicts when the disk fills up, until ctx ends.
func (a *Agent) watchRoom(ctx context.Context) {
	var w roomWatch
	for {
		a.makeRoom(ctx, &w)
		t := time.NewTimer(a.room().Every)
		select {
		case <-t.C:
		case <-a.short:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// noSpace asks for a look at the room now.
func (a *Agent) noSpace() {
	select {
	case a.short <- struct{}{}:
	default:
	}
}

// roomWatch remembers what was said, so that it is said once.
type roomWatch struct{ stuck bool }

// fresh is for how long a layer stays after its last use while there is room for jobs:
// the next job of its pipeline is likely to want it. A disk that others fill up must
// not cost every job its files.
const fresh = 10 * time.Minute

// makeRoom looks once, evicts if it has to, and says so to everybody.
func (a *Agent) makeRoom(ctx context.Context, w *roomWatch) {
	r, dir := a.room(), a.o.Store.Dir()
	d := r.Disk(dir)
	if over := r.over(r.High, d, a.o.Store.Usage()); over > 0 || d.crowded(r.High) {
		a.evict(ctx, w, d)
		d = r.Disk(dir)
	} else if w.stuck {
		w.stuck = false
		a.log.Info("the store is below its high mark again")
	}
	why := r.full(d, a.o.Store.Usage())
	if s, ok := a.o.Store.(interface{ Failing() error }); ok && s.Failing() != nil {
		why = s.Failing().Error()
	}
	a.mu.Lock()
	was := a.noRoom
	a.noRoom = why != ""
	a.mu.Unlock()
	switch {
	case why != "" && !was:
		a.log.Error("NO MORE JOBS ARE TAKEN: the store can't keep what they would leave", "store", dir, "why", why)
	case why == "" && was:
		a.log.Info("the store has room for jobs again", "store", dir)
	}
	if was != (why != "") {
		a.wake()
		a.beatNow()
	}
}

// evict brings the store below its low mark, or says what is in the way.
func (a *Agent) evict(ctx context.Context, w *roomWatch, before Disk) {
	r, dir, usage := a.room(), a.o.Store.Dir(), a.o.Store.Usage()
	enough := func(freed int64) bool {
		d := r.Disk(dir)
		if before.Used-freed < d.Used { // not counted as free yet
			d.Free += d.Used - (before.Used - freed)
			d.Used = before.Used - freed
		}
		return r.over(r.Low, d, usage-freed) <= 0 && !d.crowded(r.Low)
	}
	spec := store.EvictSpec{Enough: enough, Confirm: a.confirm}
	if r.full(before, usage) == "" {
		spec.Before = a.o.Now().Add(-fresh)
	}
	got, err := a.o.Store.Evict(ctx, spec)
	for _, e := range got.Evicted {
		a.hold(api.Holding{ID: e.ID, Gone: true})
	}
	if n := len(got.Evicted); n > 0 {
		a.mu.Lock()
		a.evicted, a.evictedBytes = a.evicted+int64(n), a.evictedBytes+got.Freed
		layers, bytes := a.evicted, a.evictedBytes
		a.mu.Unlock()
		a.log.Info("evicted what is not needed here", "layers", n, "freed", size(got.Freed),
			"since_start", layers, "freed_since_start", size(bytes))
		a.beatNow()
	}
	if err != nil {
		if ctx.Err() == nil {
			a.log.Error("evicting layers", "err", err)
		}
		return
	}
	a.hurryUploads(got)
	if d := r.Disk(dir); r.over(r.High, d, a.o.Store.Usage()) <= 0 && !d.crowded(r.High) {
		return
	}
	if !w.stuck {
		w.stuck = true
		a.log.Error("THE STORE IS ABOVE ITS HIGH MARK and nothing more may be evicted",
			"store", dir, "over", size(r.over(r.High, r.Disk(dir), a.o.Store.Usage())), "kept", describeKept(got.Kept))
	}
}

// describeKept says who holds what.
func describeKept(kept []store.Kept) string {
	if len(kept) == 0 {
		return "nothing: others fill the disk"
	}
	var out []string
	for _, k := range kept {
		s := fmt.Sprintf("%s: %d layer(s), %s, such as %s", k.Reason, k.Layers, size(k.Bytes), k.Example)
		if k.By != "" {
			s += " by " + string(k.By)
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

// confirm asks the blob store for each blob of a layer before the layer goes.
func (a *Agent) confirm(ctx context.Context, id snapshot.ID, blobs []store.Blob) error {
	for _, b := range blobs {
		n, err := a.o.Blobs.Stat(ctx, b.Digest)
		if err != nil {
			return err
		}
		if n != b.Bytes {
			return fmt.Errorf("snapshot %s: blob %s has %d bytes in the blob store, want %d", id, b.Digest, n, b.Bytes)
		}
	}
	return nil
}

// hurryUploads brings what is in the way of an eviction to the blob store first.
func (a *Agent) hurryUploads(got store.EvictReport) {
	wait := false
	for _, k := range got.Kept {
		wait = wait || k.Reason == store.KeptOnlyCopy
	}
	if !wait {
		return
	}
	var ids []snapshot.ID
	for _, in := range a.o.Store.List() {
		if in.State == store.Sealed || in.State == store.Packed {
			ids = append(ids, in.ID)
		}
	}
	a.o.Store.First(ids...)
	a.up.Urgent(ids...)
}

// promised keeps what a claim needs from being evicted: its inputs as long as the
// attempt lasts, and their ancestors, which a merge may ask for, until its view is
// made. Should that not work, the worst is a fetch.
func (a *Agent) promised(ctx context.Context, c *api.Claim) (inputs, ancestors func()) {
	hold := func(ids []snapshot.ID) func() {
		release, err := a.o.Store.Hold(ctx, ids...)
		if err != nil {
			a.log.Debug("inputs can't be held", "attempt", c.Attempt, "err", err)
			return func() {}
		}
		return release
	}
	var ins, old []snapshot.ID
	for _, in := range c.Inputs {
		ins = append(ins, in.Snapshot)
	}
	if len(ins) > 1 {
		for _, n := range c.Lineage {
			old = append(old, n.ID)
		}
	}
	return hold(ins), hold(old)
}
