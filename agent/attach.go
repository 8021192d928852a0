package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
)

// Words of a workspace's spec.
const (
	modeOptional    = "optional"
	conflictOrder   = "order"
	commitNever     = "never"
	commitIfChanged = "if-changed"
)

// note is what the store keeps with a view for us.
type note struct {
	Ref    api.AttemptRef `json:"ref"`
	Job    string         `json:"job"`
	Commit string         `json:"commit"` // on_success, if-changed
	Inputs []snapshot.ID  `json:"inputs,omitempty"`
}

// place is a view that is ready.
type place struct {
	view string // where it is
	path string // where the job sees it
	ws   api.Workspace
	// note is what the store was told. Its Inputs are the snapshots that the view
	// shows, none when it is FRESH.
	note note
}

// fault is why a workspace could not be attached, as the coordinator is told.
type fault struct {
	code api.Code
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// attach makes the job's view. By the degradation rule (CONTRACT 1.7) a job starts
// from exactly its inputs or from nothing: what may do without its workspace gets
// an empty view when there is any fault, what needs it gets the fault. A seed is
// never needed. A merge conflict is nobody's fault but the pipeline's: it is a
// *snapshot.ConflictError for either.
func (a *Agent) attach(ctx context.Context, c *api.Claim, slot int, begin time.Duration, log *jobLog) (*place, error) {
	spec := a.prepareSpec(c, slot)
	p := &place{view: spec.Target, path: spec.Target, ws: api.Workspace{
		State: api.StateFresh, Origin: api.OriginNone, Source: api.SourceNone,
		Code: c.Code, Reason: c.Reason, Driver: a.o.Store.Driver().Name(),
	}}
	p.note = note{
		Ref: api.AttemptRef{Attempt: c.Attempt, Epoch: c.Epoch},
		Job: c.Job.Name, Commit: c.Job.Workspace.Commit,
	}
	if a.o.BuildsDir != "" {
		p.path = filepath.Join(a.o.BuildsDir, slug(c.Project))
	}
	if c.Job.Workspace.Disabled {
		spec.Inputs = nil
		p.ws.Code, p.ws.Reason = api.WorkspaceDisabled, "workspace: false"
	}
	err := a.full(ctx, c, spec, p, log)
	if err == nil {
		p.ws.AttachMS = ms(elapsed() - begin)
		fail.Point("agent.prepared")
		return p, nil
	}
	var conflict *snapshot.ConflictError
	if errors.As(err, &conflict) || ctx.Err() != nil || len(spec.Inputs) == 0 {
		return nil, err
	}
	if c.Job.Workspace.Mode != modeOptional && c.Origin != api.OriginSeed {
		return nil, err
	}
	return a.fresh(ctx, c, spec, p, begin, err, log)
}

// fresh gives a job an empty view after its workspace could not be had.
func (a *Agent) fresh(ctx context.Context, c *api.Claim, spec store.PrepareSpec, p *place, begin time.Duration, why error, log *jobLog) (*place, error) {
	log.say("WORKSPACE NOT AVAILABLE: %v", why)
	log.say("starting FRESH, from an empty directory: this job may do without it")
	p.ws.State, p.ws.Origin, p.ws.Source = api.StateFresh, api.OriginNone, api.SourceNone
	p.ws.Code, p.ws.Reason = api.WorkspaceFault, why.Error()
	var f *fault
	switch {
	case c.Origin == api.OriginSeed:
		p.ws.Code = api.WorkspaceSeedGone
	case errors.As(why, &f) && f.code == api.FailInput:
		p.ws.Code = api.WorkspaceLost
	case errors.As(why, &f) && f.code == api.FailDiskFull:
		a.noSpace()
	}
	p.ws.BytesNeeded, p.ws.MTimeDivergence = 0, 0
	spec.Inputs = nil
	if err := a.prepare(ctx, spec, p); err != nil {
		return nil, err
	}
	p.ws.AttachMS = ms(elapsed() - begin)
	fail.Point("agent.prepared")
	return p, nil
}

// prepareSpec says what the store should make of a claim.
func (a *Agent) prepareSpec(c *api.Claim, slot int) store.PrepareSpec {
	w := &c.Job.Workspace
	s := store.PrepareSpec{
		ID: c.Attempt, Order: w.OnConflict == conflictOrder, Atomic: w.Atomic, Caches: w.Caches,
		Target: filepath.Join(a.o.Store.Dir(), "slots", strconv.Itoa(slot), slug(c.Project)),
		UID:    a.uid, GID: a.gid, DomainKey: c.DomainKey,
	}
	a.mu.Lock()
	stuck := a.stuck > 0
	a.mu.Unlock()
	if stuck && a.o.BuildsDir != "" { // the job does not see this path
		s.Target += "-" + string(c.Attempt)
	}
	for _, p := range w.Prefer {
		s.Prefer = append(s.Prefer, tree.Prefer{Glob: p.Glob, Job: p.Job})
	}
	for _, in := range c.Inputs {
		s.Inputs = append(s.Inputs, store.Input{Snapshot: in.Snapshot, Job: in.Job, Manifest: in.Manifest})
	}
	for _, n := range c.Lineage {
		s.Lineage = append(s.Lineage, store.Node{ID: n.ID, Parents: n.Parents, Job: n.Job})
	}
	return s
}

// full makes a view of all inputs, and fetches before what is not here.
func (a *Agent) full(ctx context.Context, c *api.Claim, spec store.PrepareSpec, p *place, log *jobLog) error {
	fetched, err := a.fetchMissing(ctx, c, spec, p, log)
	if err != nil {
		return asFault(err, api.FailFetch)
	}
	fail.Point("agent.fetched")
	if len(spec.Inputs) > 0 {
		p.ws.State, p.ws.Origin, p.ws.Source = api.StateFull, c.Origin, sourceOf(spec.Inputs, fetched)
	}
	return a.prepare(ctx, spec, p)
}

// sourceOf says where the bytes of inputs came from, when those of fetched came
// from the blob store and all others were here.
func sourceOf(inputs []store.Input, fetched map[snapshot.ID]transfer.LayerRef) string {
	if len(fetched) == 0 {
		return api.SourceLocal
	}
	for _, in := range inputs {
		for id := in.Snapshot; id != ""; {
			l, ok := fetched[id]
			if !ok {
				return api.SourceMixed
			}
			id = l.Base
		}
	}
	return api.SourceStore
}

// prepare makes the view, and adds up what it cost.
func (a *Agent) prepare(ctx context.Context, spec store.PrepareSpec, p *place) error {
	p.note.Inputs, p.ws.Inputs = nil, nil
	for _, in := range spec.Inputs {
		p.note.Inputs = append(p.note.Inputs, in.Snapshot)
		p.ws.Inputs = append(p.ws.Inputs, string(in.Snapshot))
	}
	var err error
	if spec.Claim, err = json.Marshal(p.note); err != nil {
		return &fault{api.FailAttach, err}
	}
	at, err := a.o.Store.Prepare(ctx, spec)
	if err != nil {
		return asFault(err, api.FailAttach)
	}
	p.ws.BytesNeeded = at.TreeBytes
	p.ws.BytesMoved += at.Written
	p.ws.BytesWritten += at.Written
	p.ws.MTimeDivergence = at.MTimeDivergence
	return nil
}

// fetchMissing brings the layers that the inputs need and this host lacks, and
// returns them.
func (a *Agent) fetchMissing(ctx context.Context, c *api.Claim, spec store.PrepareSpec, p *place, log *jobLog) (map[snapshot.ID]transfer.LayerRef, error) {
	want := a.o.Store.Needs(spec)
	if len(want) == 0 {
		return nil, nil
	}
	layers := make([]transfer.LayerRef, len(c.Layers))
	for i, l := range c.Layers {
		layers[i] = transfer.LayerRef{
			ID: l.ID, Base: l.Base, Index: l.Index, IndexBytes: l.IndexBytes,
			Manifest: l.Manifest, StoredBytes: l.StoredBytes,
		}
	}
	have := func(id snapshot.ID) bool {
		in, err := a.o.Store.Lookup(id)
		return err == nil && in.State.Usable()
	}
	need, err := transfer.Missing(layers, have, want)
	if err != nil {
		return nil, err
	}
	var sum int64
	fetched := make(map[snapshot.ID]transfer.LayerRef, len(need))
	for _, l := range need {
		sum += l.StoredBytes
		fetched[l.ID] = l
	}
	log.say("fetching %d layer(s), %s", len(need), humanize.IBytes(uint64(max(sum, 0))))
	var counter transfer.Counter
	var meter view.Meter
	begin := elapsed()
	err = a.importAll(transfer.WithCounter(ctx, &counter), c, need, &meter)
	p.ws.BytesMoved += counter.Bytes()
	p.ws.BytesWritten += meter.Written()
	if err != nil {
		return nil, err
	}
	log.say("fetched %s in %s", humanize.IBytes(uint64(counter.Bytes())), short(elapsed()-begin))
	return fetched, nil
}

// importAll imports layers, each base before what stands on it.
func (a *Agent) importAll(ctx context.Context, c *api.Claim, need []transfer.LayerRef, m *view.Meter) error {
	parents := map[snapshot.ID][]snapshot.ID{}
	for _, n := range c.Lineage {
		parents[n.ID] = n.Parents
	}
	for _, l := range need {
		spec := store.ImportSpec{
			ID: l.ID, Base: l.Base, Parents: parents[l.ID], Index: l.Index, IndexBytes: l.IndexBytes,
			Manifest: l.Manifest, DomainKey: c.DomainKey,
		}
		if err := a.importOne(ctx, spec, m); err != nil {
			return fmt.Errorf("fetch snapshot %s: %w", l.ID, err)
		}
		fail.Point("agent.imported")
		in, err := a.o.Store.Lookup(l.ID)
		if err != nil {
			return err
		}
		a.hold(api.Holding{ID: l.ID, Bytes: in.DiskBytes})
	}
	return nil
}

// asFault finds the code of an error; the given one if it says nothing.
func asFault(err error, code api.Code) error {
	var (
		f        *fault
		corrupt  *snapshot.CorruptError
		conflict *snapshot.ConflictError
	)
	switch {
	case errors.As(err, &f), errors.As(err, &conflict):
		return err
	case errors.As(err, &corrupt):
		code = api.FailCorrupt
	case errors.Is(err, snapshot.ErrNotFound):
		code = api.FailInput
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, blob.ErrFull):
		code = api.FailDiskFull
	}
	return &fault{code, err}
}

// ms is a duration as the wire has it.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// short is a duration for people.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
