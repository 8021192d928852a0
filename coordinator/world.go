package coordinator

import (
	"cmp"
	"slices"
	"time"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// world is the picture of all that is live. Its records are immutable: the loop
// replaces them, under Server.mu, after a commit. What is not kept over a restart
// (hosts' leases, what they hold, who polls) is changed in place, also under
// Server.mu. Only the loop writes.
type world struct {
	number    int64 // of the newest pipeline
	pipelines map[string]*state.Pipeline
	jobs      map[string]*state.Job
	attempts  map[snapshot.ID]*state.Attempt
	snapshots map[snapshot.ID]*state.Snapshot
	hosts     map[string]*state.Host
	domains   map[domainKey]*state.Domain
	durations map[durationKey]state.Duration
	seeds     map[seedKey]map[string][]state.Seed // by fingerprint, newest first

	// byName finds the job of a pipeline.
	byName map[string]map[string]string
	// byKey finds the open pipelines, byOutside the newest records of other systems'
	// jobs. kept are those of them that no host has accepted, or that are owed.
	byKey     map[string]string
	byOutside map[string]string
	kept      map[string]bool
	// tried has the attempts of each job.
	tried map[string]map[snapshot.ID]bool
	// queued are the jobs that wait for a host.
	queued map[string]bool
	// live has the attempts of each host that have not ended.
	live map[string]map[snapshot.ID]bool

	// What follows is not in the state store.
	agents map[snapshot.ID]string // agent -> host
	fleet  map[string]*presence   // by host
	beats  map[snapshot.ID]*beat  // by live attempt
	waits  map[string]*waiting    // by queued job
	keys   map[string]keyed       // submissions since the start, by key
	urgent map[snapshot.ID]time.Time
	// unused are snapshots that nothing referred to, at which version. forgot is
	// when that was looked at.
	unused map[snapshot.ID]int64
	forgot time.Time
	// ended is what a monitoring system is told.
	ended tally
}

type domainKey struct{ project, zone string }

type durationKey struct{ project, job string }

type seedKey struct{ project, zone, job string }

// presence is what is known of a host now.
type presence struct {
	// known is false after a restart until the host registers again: what it holds
	// is not known then.
	known   bool
	expires time.Time
	seen    time.Time
	// withheld are slots that it does not offer although nothing of ours is in
	// them. expect is until when a poll is expected: the gap between two.
	withheld int
	polls    int
	expect   time.Time
	// back has, for each slot whose runner is about to ask again, when its job ended.
	back []time.Time
	// pool is what the host brought, nil for none; offers are the slots whose runners
	// asked at its newest poll.
	pool    *api.Pool
	poolKey string
	offers  []api.SlotOffer

	holds map[snapshot.ID]int64
	// parts is what it has of snapshots that it does not hold, by them; with are those
	// that it has it with.
	parts map[snapshot.ID][]affinity.Part
	with  map[snapshot.ID][]snapshot.ID

	diskFree, diskTotal int64
	queue               int64
	evicted             int64
	evictedBytes        int64
	encode, upload      float64
	fetch               float64 // bytes per second, as its attaches showed
}

// beat is what is known of a live attempt beside its record.
type beat struct {
	assigned time.Time // or since when the coordinator runs
	seen     time.Time // last listed by its host
	missing  int64     // bytes that its host had to fetch
	seconds  float64   // estimate of that
	started  time.Time // of the script
	// delivered is when its host was last told of it.
	delivered time.Time
}

// waiting is why a queued job waits, as of the last decision.
type waiting struct {
	reason     string
	candidates []api.Candidate
	// bytes is the size of what it starts from.
	bytes int64
	// could is since when a host could have run it; the wait for files counts
	// from then. lost is since when its files are out of reach.
	could, lost time.Time
	// told are the reasons that an event was made of.
	told map[api.Code]bool
}

// keyed is a submission that was committed since the start.
type keyed struct {
	pipeline, hash string
	at             time.Time
}

func newWorld(l *state.Live) *world {
	w := &world{
		number:    l.Number,
		pipelines: map[string]*state.Pipeline{}, jobs: map[string]*state.Job{},
		attempts: map[snapshot.ID]*state.Attempt{}, snapshots: map[snapshot.ID]*state.Snapshot{},
		hosts: map[string]*state.Host{}, domains: map[domainKey]*state.Domain{},
		durations: map[durationKey]state.Duration{}, seeds: map[seedKey]map[string][]state.Seed{},
		byName: map[string]map[string]string{}, queued: map[string]bool{}, tried: map[string]map[snapshot.ID]bool{}, live: map[string]map[snapshot.ID]bool{},
		agents: map[snapshot.ID]string{}, fleet: map[string]*presence{}, beats: map[snapshot.ID]*beat{},
		waits: map[string]*waiting{}, keys: map[string]keyed{}, urgent: map[snapshot.ID]time.Time{},
		unused: map[snapshot.ID]int64{},
		byKey:  map[string]string{}, byOutside: map[string]string{}, kept: map[string]bool{},
		ended: tally{jobs: map[api.Status]int64{}, starts: map[start]int64{}},
	}
	for _, p := range l.Pipelines {
		w.putPipeline(p)
	}
	for _, j := range l.Jobs {
		w.putJob(j)
	}
	for _, a := range l.Attempts {
		w.putAttempt(a)
	}
	for _, x := range l.Snapshots {
		w.snapshots[x.ID] = x
	}
	for _, h := range l.Hosts {
		w.putHost(h)
	}
	for _, d := range l.Domains {
		w.domains[domainKey{d.Project, d.Zone}] = d
	}
	for _, d := range l.Durations {
		w.durations[durationKey{d.Project, d.Job}] = d
	}
	for _, s := range l.Seeds {
		w.putSeed(s)
	}
	return w
}

func (w *world) putPipeline(p *state.Pipeline) {
	w.pipelines[p.ID] = p
	if p.Open {
		w.byKey[p.Key] = p.ID
	}
}

func (w *world) putJob(j *state.Job) {
	w.jobs[j.ID] = j
	if j.Status == api.StatusQueued {
		w.queued[j.ID] = true
	} else {
		delete(w.queued, j.ID)
		delete(w.waits, j.ID)
	}
	names := w.byName[j.Pipeline]
	if names == nil {
		names = map[string]string{}
		w.byName[j.Pipeline] = names
	}
	// Names may come again: the newest job has it.
	if old := w.jobs[names[j.Def.Spec.Name]]; old == nil || old.Index <= j.Index {
		names[j.Def.Spec.Name] = j.ID
	}
	w.putOutside(j)
}

func (w *world) putOutside(j *state.Job) {
	e := j.Def.External
	if e == nil {
		return
	}
	if j.Outside.Owed != "" || j.Status == api.StatusQueued || j.Status == api.StatusAssigned {
		w.kept[j.ID] = true
	} else {
		delete(w.kept, j.ID)
	}
	key := outsideKey(e.Instance, e.ID)
	if old := w.jobs[w.byOutside[key]]; old == nil || old.Index <= j.Index || old.Pipeline != j.Pipeline {
		w.byOutside[key] = j.ID
	}
}

func (w *world) putAttempt(a *state.Attempt) {
	if old := w.attempts[a.ID]; old != nil && old.Host != a.Host {
		delete(w.live[old.Host], a.ID)
	}
	w.attempts[a.ID] = a
	if w.tried[a.Job] == nil {
		w.tried[a.Job] = map[snapshot.ID]bool{}
	}
	w.tried[a.Job][a.ID] = true
	if a.Stage == state.AttemptEnded {
		delete(w.live[a.Host], a.ID)
		delete(w.beats, a.ID)
		return
	}
	if w.live[a.Host] == nil {
		w.live[a.Host] = map[snapshot.ID]bool{}
	}
	w.live[a.Host][a.ID] = true
	if w.beats[a.ID] == nil {
		w.beats[a.ID] = &beat{}
	}
}

func (w *world) putHost(h *state.Host) {
	if old := w.hosts[h.Name]; old != nil && old.Agent != h.Agent {
		delete(w.agents, old.Agent)
	}
	w.hosts[h.Name] = h
	w.agents[h.Agent] = h.Name
	if w.fleet[h.Name] == nil {
		w.fleet[h.Name] = &presence{holds: map[snapshot.ID]int64{}}
	}
}

func keyOf(s state.Seed) seedKey { return seedKey{s.Project, s.Zone, s.Job} }

func (w *world) putSeed(s state.Seed) {
	k := keyOf(s)
	w.dropSeed(s)
	if w.seeds[k] == nil {
		w.seeds[k] = map[string][]state.Seed{}
	}
	l := append(slices.Clone(w.seeds[k][s.Fingerprint]), s)
	slices.SortFunc(l, func(a, b state.Seed) int { return cmp.Compare(b.Number, a.Number) })
	w.seeds[k][s.Fingerprint] = l
}

func (w *world) dropSeed(s state.Seed) {
	l := w.seeds[keyOf(s)][s.Fingerprint]
	if i := slices.IndexFunc(l, func(o state.Seed) bool { return o.Number == s.Number }); i >= 0 {
		w.seeds[keyOf(s)][s.Fingerprint] = slices.Delete(slices.Clone(l), i, i+1)
	}
}
