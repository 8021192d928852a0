package agent

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/transfer"
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
	// Slot is set for a job in a runner of its own: its view outlives the agent.
	Slot int `json:"slot,omitempty"`
}

// place is a view that is ready.
type place struct {
	view string // where it is; "" if there is none
	path string // where the job sees it
	ws   api.Workspace
	// note is what the store was told. Its Inputs are the snapshots that the view
	// shows, none when it is FRESH.
	note note
}

// sayer takes lines of Roost's own for a job's log.
type sayer interface {
	say(format string, args ...any)
}

// attaching is a workspace on its way.
type attaching struct {
	a     *Agent
	c     *api.Claim
	spec  store.PrepareSpec
	p     *place
	log   sayer
	begin time.Duration // by elapsed
	// budget is how long a fetch may stand still, 0: as long as the fetcher takes it.
	budget time.Duration
	// progress, if set, hears while it lasts how far a fetch has come.
	progress func(line string)
}

// attach makes the job's view. A job starts from exactly its inputs or from nothing:
// what may do without its workspace gets an empty view when there is any fault, what
// needs it gets the fault. A seed is never needed. A merge conflict is nobody's fault but
// the pipeline's: it is a *snapshot.ConflictError for either, unless the job would have
// run without us.
func (a *Agent) attach(ctx context.Context, c *api.Claim, slot int, begin time.Duration, log sayer) (*place, error) {
	return a.newAttaching(c, slot, begin, log).run(ctx)
}

func (a *Agent) newAttaching(c *api.Claim, slot int, begin time.Duration, log sayer) *attaching {
	at := &attaching{a: a, c: c, log: log, begin: begin, spec: a.prepareSpec(c, slot)}
	at.p = &place{view: at.spec.Target, path: at.spec.Target, ws: api.Workspace{
		State: api.StateFresh, Origin: api.OriginNone, Source: api.SourceNone,
		Code: c.Code, Reason: c.Reason, Driver: a.o.Store.Driver().Name(),
	}}
	at.p.note = note{
		Ref: api.AttemptRef{Attempt: c.Attempt, Epoch: c.Epoch},
		Job: c.Job.Name, Commit: c.Job.Workspace.Commit,
	}
	if c.External != nil {
		at.p.note.Slot = slot
		at.budget = a.fetchBudget(c.External)
	} else if a.o.BuildsDir != "" {
		at.p.path = filepath.Join(a.o.BuildsDir, slug(c.Project))
	}
	if c.Job.Workspace.Disabled {
		at.spec.Inputs = nil
		at.p.ws.Code, at.p.ws.Reason = api.WorkspaceDisabled, "workspace: false"
	}
	return at
}

func (at *attaching) run(ctx context.Context) (*place, error) {
	err := at.full(ctx)
	if err == nil {
		return at.ready(), nil
	}
	if ctx.Err() != nil || !at.mayBeFresh(err) {
		return nil, err
	}
	return at.fresh(ctx, err)
}

// ready is said of a place that a job may start in.
func (at *attaching) ready() *place {
	at.p.ws.AttachMS = ms(elapsed() - at.begin)
	fail.Point("agent.prepared")
	return at.p
}

// mayBeFresh reports whether the job may start from nothing after err. What runs in
// a runner of its own may also if its parents can't be merged, or if it had no
// parents: it would have run without us.
func (at *attaching) mayBeFresh(err error) bool {
	optional := at.c.Job.Workspace.Mode == modeOptional
	if at.c.External != nil {
		return optional || at.c.Origin == api.OriginSeed
	}
	var conflict *snapshot.ConflictError
	return !errors.As(err, &conflict) && len(at.spec.Inputs) > 0 && (optional || at.c.Origin == api.OriginSeed)
}

// fresh gives a job an empty view after its workspace could not be had.
func (at *attaching) fresh(ctx context.Context, why error) (*place, error) {
	at.log.say("WORKSPACE NOT AVAILABLE: %v", why)
	at.log.say("starting FRESH, from an empty directory: this job may do without it")
	ws := &at.p.ws
	ws.State, ws.Origin, ws.Source = api.StateFresh, api.OriginNone, api.SourceNone
	ws.Code, ws.Reason = api.WorkspaceFault, why.Error()
	var f *fault
	var conflict *snapshot.ConflictError
	switch {
	case errors.As(why, &conflict):
		ws.Code = api.WorkspaceConflict
	case at.c.Origin == api.OriginSeed:
		ws.Code = api.WorkspaceSeedGone
	case errors.As(why, &f) && f.code == api.FailInput:
		ws.Code = api.WorkspaceLost
	case errors.As(why, &f) && f.code == api.FailDiskFull:
		at.a.noSpace()
	}
	ws.BytesNeeded, ws.MTimeDivergence = 0, 0
	at.spec.Inputs = nil
	err := at.prepare(ctx)
	switch {
	case err == nil:
		return at.ready(), nil
	case at.c.External == nil || at.c.Job.Workspace.Mode != modeOptional || ctx.Err() != nil:
		return nil, err
	}
	// Its runner has directories of its own.
	at.log.say("not even an empty workspace can be had (%v): the job runs in its runner's own directory, and nothing of it is kept", err)
	at.p.view, at.p.path = "", ""
	return at.ready(), nil
}

// prepareSpec says what the store should make of a claim.
func (a *Agent) prepareSpec(c *api.Claim, slot int) store.PrepareSpec {
	w := &c.Job.Workspace
	s := store.PrepareSpec{
		ID: c.Attempt, Order: w.OnConflict == conflictOrder, Atomic: w.Atomic, Caches: w.Caches,
		UID: a.uid, GID: a.gid, DomainKey: c.DomainKey,
	}
	if c.External != nil {
		s.Target = filepath.Join(a.slotDir(slot), c.External.Name)
	} else {
		s.Target = filepath.Join(a.slotDir(slot), slug(c.Project))
		a.mu.Lock()
		stuck := a.stuck > 0
		a.mu.Unlock()
		if stuck && a.o.BuildsDir != "" { // the job does not see this path
			s.Target += "-" + string(c.Attempt)
		}
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

// slotDir is where the views of a slot appear.
func (a *Agent) slotDir(slot int) string { return filepath.Join(a.o.SlotsDir, strconv.Itoa(slot)) }

// full makes a view of all inputs, and fetches before what is not here.
func (at *attaching) full(ctx context.Context) error {
	fetched, err := at.fetchMissing(ctx)
	if err != nil {
		return asFault(err, api.FailFetch)
	}
	if err := at.unpackStored(ctx); err != nil {
		return asFault(err, api.FailAttach)
	}
	fail.Point("agent.fetched")
	if len(at.spec.Inputs) > 0 {
		ws := &at.p.ws
		ws.State, ws.Origin, ws.Source = api.StateFull, at.c.Origin, sourceOf(at.spec.Inputs, fetched)
	}
	return at.prepare(ctx)
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
func (at *attaching) prepare(ctx context.Context) error {
	p := at.p
	p.note.Inputs, p.ws.Inputs = nil, nil
	for _, in := range at.spec.Inputs {
		p.note.Inputs = append(p.note.Inputs, in.Snapshot)
		p.ws.Inputs = append(p.ws.Inputs, string(in.Snapshot))
	}
	var err error
	if at.spec.Claim, err = json.Marshal(p.note); err != nil {
		return &fault{api.FailAttach, err}
	}
	got, err := at.a.o.Store.Prepare(ctx, at.spec)
	if err != nil {
		return asFault(err, api.FailAttach)
	}
	p.ws.BytesNeeded = got.TreeBytes
	p.ws.BytesMoved += got.Written
	p.ws.BytesWritten += got.Written
	p.ws.MTimeDivergence = got.MTimeDivergence
	return nil
}

// fetchMissing brings the layers that the inputs need and this host lacks, and
// returns them.
func (at *attaching) fetchMissing(ctx context.Context) (map[snapshot.ID]transfer.LayerRef, error) {
	a := at.a
	want := a.o.Store.Needs(at.spec)
	if len(want) == 0 {
		return nil, nil
	}
	layers := make([]transfer.LayerRef, len(at.c.Layers))
	for i, l := range at.c.Layers {
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
	at.log.say("fetching %d layer(s), %s", len(need), size(sum))
	f := &fetching{at: at, sum: sum}
	begin := elapsed()
	err = f.run(ctx, need, want)
	at.p.ws.BytesMoved += f.counter.Bytes()
	at.p.ws.BytesWritten += f.meter.Written()
	if err != nil {
		return nil, err
	}
	at.log.say("fetched %s in %s", size(f.counter.Bytes()), short(elapsed()-begin))
	return fetched, nil
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
