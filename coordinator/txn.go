package coordinator

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// txn is one batch of operations over the world. Records are read through it;
// edit gives a copy that is committed with the batch. An operation that returns an
// error is undone.
type txn struct {
	s   *Server
	w   *world
	now time.Time

	pipelines table[string, state.Pipeline]
	jobs      table[string, state.Job]
	attempts  table[snapshot.ID, state.Attempt]
	snapshots table[snapshot.ID, state.Snapshot]
	hosts     table[string, state.Host]
	events    []state.Event
	domains   []*state.Domain
	seeds     []state.Seed
	drops     []state.Seed
	durations map[durationKey]state.Duration
	keys      map[string]keyed
	payloads  []state.Payload

	// names finds the jobs of pipelines that are new in this batch.
	names map[string]map[string]string
	// taken finds the jobs of other systems that are new in this batch.
	taken map[string]string
	// look has the pipelines whose graph has to be looked at again.
	look map[string]bool
	// place says that something changed that placement depends on.
	place    bool
	assigned int
	number   int64
	undo     []func()
	// after runs when the batch is installed: what is not kept in the store.
	after []func()
	// poke says that the GitLab service has to look again.
	poke bool
}

// table is the changed records of one kind over those of the world.
type table[K comparable, V any] struct {
	base  map[K]*V
	dirty map[K]*V
	fresh map[K]bool // copied since the last mark
}

func newTable[K comparable, V any](base map[K]*V) table[K, V] {
	return table[K, V]{base: base, dirty: map[K]*V{}, fresh: map[K]bool{}}
}

func (t *table[K, V]) get(k K) *V {
	if v, ok := t.dirty[k]; ok {
		return v
	}
	return t.base[k]
}

// set makes v the record of k and gives the way back.
func (t *table[K, V]) set(k K, v *V) func() {
	old, had := t.dirty[k]
	t.dirty[k], t.fresh[k] = v, true
	return func() {
		delete(t.fresh, k)
		if had {
			t.dirty[k] = old
		} else {
			delete(t.dirty, k)
		}
	}
}

// edit gives a copy of the record of k, nil if there is none. bump counts its
// version up, once per batch.
func (t *table[K, V]) edit(k K, bump func(*V)) (*V, func()) {
	v := t.get(k)
	if v == nil || t.fresh[k] {
		return v, nil
	}
	_, counted := t.dirty[k]
	c := *v
	if !counted {
		bump(&c)
	}
	return &c, t.set(k, &c)
}

func (s *Server) begin(now time.Time) *txn {
	w := s.world
	return &txn{
		s: s, w: w, now: now, number: w.number,
		pipelines: newTable(w.pipelines), jobs: newTable(w.jobs), attempts: newTable(w.attempts),
		snapshots: newTable(w.snapshots), hosts: newTable(w.hosts),
		durations: map[durationKey]state.Duration{}, keys: map[string]keyed{},
		names: map[string]map[string]string{}, look: map[string]bool{}, taken: map[string]string{},
	}
}

// mark begins an operation; rollback undoes everything since.
func (t *txn) mark() {
	t.undo = t.undo[:0]
	clear(t.pipelines.fresh)
	clear(t.jobs.fresh)
	clear(t.attempts.fresh)
	clear(t.snapshots.fresh)
	clear(t.hosts.fresh)
	events, domains, seeds, drops, number := len(t.events), len(t.domains), len(t.seeds), len(t.drops), t.number
	after, payloads := len(t.after), len(t.payloads)
	durations, keys, taken := maps.Clone(t.durations), maps.Clone(t.keys), maps.Clone(t.taken)
	t.undo = append(t.undo, func() {
		t.events, t.domains, t.seeds, t.drops, t.number = t.events[:events], t.domains[:domains], t.seeds[:seeds], t.drops[:drops], number
		t.durations, t.keys, t.after = durations, keys, t.after[:after]
		t.payloads, t.taken = t.payloads[:payloads], taken
	})
}

func (t *txn) rollback() {
	for _, f := range slices.Backward(t.undo) {
		f()
	}
	t.undo = t.undo[:0]
}

func (t *txn) keep(undo func()) {
	if undo != nil {
		t.undo = append(t.undo, undo)
	}
}

func (t *txn) editPipeline(id string) *state.Pipeline {
	v, undo := t.pipelines.edit(id, func(p *state.Pipeline) { p.Version++ })
	t.keep(undo)
	return v
}

func (t *txn) editJob(id string) *state.Job {
	v, undo := t.jobs.edit(id, func(j *state.Job) { j.Version++ })
	t.keep(undo)
	return v
}

func (t *txn) editAttempt(id snapshot.ID) *state.Attempt {
	v, undo := t.attempts.edit(id, func(a *state.Attempt) { a.Version++ })
	t.keep(undo)
	return v
}

func (t *txn) editSnapshot(id snapshot.ID) *state.Snapshot {
	v, undo := t.snapshots.edit(id, func(x *state.Snapshot) { x.Version++ })
	t.keep(undo)
	return v
}

func (t *txn) editHost(name string) *state.Host {
	v, undo := t.hosts.edit(name, func(h *state.Host) { h.Version++ })
	t.keep(undo)
	return v
}

func (t *txn) ms() int64 { return t.now.UnixMilli() }

// job finds a job of a pipeline by name.
func (t *txn) job(pipeline, name string) *state.Job {
	if names, ok := t.names[pipeline]; ok {
		return t.jobs.get(names[name])
	}
	return t.jobs.get(t.w.byName[pipeline][name])
}

// event tells what happened to job j, or to pipeline p if j is nil.
func (t *txn) event(p string, j *state.Job, text string) {
	pl := t.editPipeline(p)
	pl.Events++
	e := api.Event{Seq: pl.Events, TimeMS: t.ms(), Status: pl.Status, Text: text}
	if j != nil {
		e.Job, e.Status, e.Code = j.Def.Spec.Name, j.Status, j.Code
	}
	t.events = append(t.events, state.Event{Pipeline: p, Event: e})
}

// batch is what has to be committed.
func (t *txn) batch() *state.Batch {
	b := &state.Batch{
		Events: t.events, Domains: t.domains, Seeds: t.seeds, DropSeeds: t.drops, Payloads: t.payloads,
		Pipelines: sorted(t.pipelines.dirty, func(p *state.Pipeline) string { return p.ID }),
		Jobs:      sorted(t.jobs.dirty, func(j *state.Job) string { return j.ID }),
		Attempts:  sorted(t.attempts.dirty, func(a *state.Attempt) string { return string(a.ID) }),
		Snapshots: sorted(t.snapshots.dirty, func(x *state.Snapshot) string { return string(x.ID) }),
		Hosts:     sorted(t.hosts.dirty, func(h *state.Host) string { return h.Name }),
	}
	for _, d := range t.durations {
		b.Durations = append(b.Durations, d)
	}
	for _, j := range b.Jobs {
		if j.Def.External != nil && j.Status.Ended() && j.Outside.Owed == "" {
			b.DropPayloads = append(b.DropPayloads, j.ID)
		}
	}
	return b
}

// sorted makes the order of statements independent of maps.
func sorted[K comparable, V any](m map[K]*V, key func(*V) string) []*V {
	return slices.SortedFunc(maps.Values(m), func(a, b *V) int { return strings.Compare(key(a), key(b)) })
}

// install makes the committed records the picture.
func (t *txn) install() {
	w := t.w
	w.number = t.number
	for _, p := range t.pipelines.dirty {
		w.putPipeline(p)
	}
	for _, j := range t.jobs.dirty {
		if old := w.jobs[j.ID]; j.Status.Ended() && (old == nil || !old.Status.Ended()) {
			w.ended.add(j)
		}
		w.putJob(j)
	}
	for _, a := range t.attempts.dirty {
		w.putAttempt(a)
	}
	maps.Copy(w.snapshots, t.snapshots.dirty)
	for _, h := range t.hosts.dirty {
		w.putHost(h)
	}
	for _, d := range t.domains {
		w.domains[domainKey{d.Project, d.Zone}] = d
	}
	maps.Copy(w.durations, t.durations)
	maps.Copy(w.keys, t.keys)
	for _, s := range t.drops {
		w.dropSeed(s)
	}
	for _, s := range t.seeds {
		w.putSeed(s)
	}
	for _, f := range t.after {
		f()
	}
	for id, p := range t.pipelines.dirty {
		if !p.Live() {
			w.forget(id)
		}
	}
}
