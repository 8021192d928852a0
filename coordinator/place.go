package coordinator

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// unknownRun is how long a script is believed to take of which nothing is known.
const unknownRun = 60.0

// urgentFor is how long a snapshot stays urgent after the last decision that
// wanted it.
const urgentFor = 30 * time.Second

// schedule builds the fleet, has it decided, and carries that out.
func (t *txn) schedule() error {
	queued := t.queued()
	if len(queued) == 0 {
		return nil
	}
	f := affinity.Fleet{Hosts: t.fleetHosts(), Running: t.running()}
	gives := map[string]given{}
	for _, j := range queued {
		if aj, g, ok := t.fleetJob(j); ok {
			f.Jobs = append(f.Jobs, aj)
			gives[j.ID] = g
		}
	}
	f.Params.Service = t.service()
	d := affinity.Decide(f)
	for _, a := range d.Assign {
		if err := t.assign(a, gives[a.Job]); err != nil {
			return err
		}
	}
	for _, w := range d.Wait {
		t.wait(w)
	}
	return nil
}

// queued are the jobs that wait for a host, with what this batch changed.
func (t *txn) queued() []*state.Job {
	var out []*state.Job
	add := func(j *state.Job) {
		if j.Status == api.StatusQueued {
			out = append(out, j)
		}
	}
	for id := range t.w.queued {
		add(t.jobs.get(id))
	}
	for id, j := range t.jobs.dirty {
		if !t.w.queued[id] {
			add(j)
		}
	}
	slices.SortFunc(out, func(a, b *state.Job) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// liveOn lists the attempts that have not ended on a host, by id.
func (t *txn) liveOn(host string) []*state.Attempt {
	var out []*state.Attempt
	for id := range t.w.live[host] {
		if a := t.attempts.get(id); a.Host == host && a.Stage != state.AttemptEnded {
			out = append(out, a)
		}
	}
	for id, a := range t.attempts.dirty {
		if a.Host == host && a.Stage != state.AttemptEnded && !t.w.live[host][id] {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *state.Attempt) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// running counts the slots of each project.
func (t *txn) running() map[string]int {
	out := map[string]int{}
	for host := range t.w.hosts {
		for _, a := range t.liveOn(host) {
			if p := t.pipelines.get(t.jobs.get(a.Job).Pipeline); p != nil {
				out[p.Project]++
			}
		}
	}
	return out
}

// service is how long a job holds its slot, from what is known of all of them.
func (t *txn) service() float64 {
	sum, n := 0.0, 0.0
	for _, d := range t.w.durations {
		sum += d.MS / 1e3 * float64(d.Count)
		n += float64(d.Count)
	}
	if n == 0 {
		return 0
	}
	return math.Max(1, sum/n)
}

// fleetHosts makes the hosts of the fleet, by name.
func (t *txn) fleetHosts() []affinity.Host {
	var out []affinity.Host
	for name, p := range t.w.fleet {
		h := t.hosts.get(name)
		if h == nil || h.State == api.HostLeft {
			continue
		}
		live := t.liveOn(name)
		ah := affinity.Host{
			Name: name, Fingerprint: h.Fingerprint, Tags: h.Tags, Slots: h.Slots,
			Free: max(0, h.Slots-len(live)-p.withheld), Rate: p.fetch,
			Has: make(map[snapshot.ID]bool, len(p.holds)), Coming: map[snapshot.ID]float64{},
		}
		ah.Off = t.off(h, p, ah.Free)
		for id := range p.holds {
			ah.Has[id] = true
		}
		for _, a := range live {
			t.busy(&ah, a)
		}
		out = append(out, ah)
	}
	slices.SortFunc(out, func(a, b affinity.Host) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// off says why no job may start on a host with so many free slots now. One that is
// full does not ask, and is none the worse for it.
func (t *txn) off(h *state.Host, p *presence, free int) string {
	switch {
	case h.State == api.HostLost:
		return "lost"
	case !p.known:
		return "not back since the coordinator restarted"
	case free > 0 && p.polls == 0 && !t.now.Before(p.expect):
		return "not asking for work"
	}
	return ""
}

// busy adds what a live attempt means for its host: when its slot is free, and
// what is on its way there.
func (t *txn) busy(h *affinity.Host, a *state.Attempt) {
	j := t.jobs.get(a.Job)
	p := t.pipelines.get(j.Pipeline)
	b := t.w.beats[a.ID]
	est := unknownRun
	if p != nil {
		if d, ok := t.w.durations[durationKey{p.Project, j.Def.Spec.Name}]; ok {
			est = d.MS / 1e3
		}
	}
	if a.Stage == state.AttemptRunning && b != nil {
		e := t.now.Sub(b.started).Seconds()
		h.Residual = append(h.Residual, math.Max(est-e, e/4))
		return
	}
	left := 0.0
	if b != nil && b.missing > 0 {
		left = math.Max(b.seconds-t.now.Sub(b.assigned).Seconds(), 0.5)
		h.Fetching++
		for _, in := range j.Inputs {
			for _, l := range chain(t.snapshots.get, in.Snapshot) {
				if !h.Has[l.ID] {
					h.Coming[l.ID] = left
				}
			}
		}
	}
	h.Residual = append(h.Residual, left+est)
}

// fleetJob makes one job of the fleet. ok is false if it can't be placed now for
// a reason that no host changes; the reason is recorded then.
func (t *txn) fleetJob(j *state.Job) (affinity.Job, given, bool) {
	p := t.pipelines.get(j.Pipeline)
	aj := affinity.Job{
		ID: j.ID, Project: p.Project, Pipeline: p.Number, Index: j.Index, Tags: j.Def.Tags, Avoid: j.Avoid,
	}
	if waited := t.now.Sub(time.UnixMilli(j.QueuedMS)); waited > t.s.o.QueueTimeout {
		t.failQueued(j, api.FailTimeout, fmt.Sprintf("no host could run it for %s: %s", t.s.o.QueueTimeout, j.Reason))
		return aj, given{}, false
	}
	if t.ms() < j.NotBefore {
		t.note(j, api.WaitSlot, fmt.Sprintf("tried again in %.0f s", float64(j.NotBefore-t.ms())/1e3), nil)
		return aj, given{}, false
	}
	g := t.given(j)
	if len(g.broken) > 0 {
		if j.Def.Spec.Workspace.Mode == "required" {
			t.failInput(j, "its input is gone: "+strings.Join(g.broken, ", ")+" succeeded but its files could not be kept")
			return aj, g, false
		}
		g = given{origin: api.OriginNone, code: api.WorkspaceLost, reason: "the files of " + strings.Join(g.broken, ", ") + " could not be kept"}
	}
	if g.origin == api.OriginParent {
		ok := false
		if g, ok = t.reachable(j, g); !ok {
			return aj, g, false
		}
	}
	switch {
	case g.origin == api.OriginSeed:
		aj.Seeds = t.fixedSeed(g)
	case g.origin == api.OriginParent:
		for _, in := range g.inputs {
			aj.Inputs = append(aj.Inputs, chain(t.snapshots.get, in.Snapshot))
		}
	case !j.Fixed && g.code == api.WorkspaceCold:
		aj.Seeds, g.reason = t.seedsFor(p, j)
	}
	if w := t.w.waits[j.ID]; w != nil && !w.could.IsZero() {
		aj.Waited = t.now.Sub(w.could).Seconds()
	}
	return aj, g, true
}

// fixedSeed is the seed that a job was given before, for hosts that can use it.
func (t *txn) fixedSeed(g given) map[string][]affinity.Chain {
	out := map[string][]affinity.Chain{}
	for _, in := range g.inputs {
		if x := t.snapshots.get(in.Snapshot); x != nil {
			out[x.Fingerprint] = append(out[x.Fingerprint], chain(t.snapshots.get, in.Snapshot))
		}
	}
	return out
}

// reachable checks that every input can be had somewhere, now or soon. An input
// whose only holders are lost is waited for; then it is given up: a job that must
// have it fails, any other one starts fresh.
func (t *txn) reachable(j *state.Job, g given) (given, bool) {
	for _, in := range g.inputs {
		where, gone := t.whereabouts(in.Snapshot)
		if where == "" {
			continue
		}
		w := t.waiting(j)
		if !gone {
			if w.lost.IsZero() {
				w.lost = t.now
			}
			if left := t.s.o.HolderGrace - t.now.Sub(w.lost); left > 0 {
				t.note(j, api.WaitLost, fmt.Sprintf("the files of %s are not uploaded and %s; given up in %.0f s", in.Job, where, left.Seconds()), nil)
				return g, false
			}
		}
		why := fmt.Sprintf("the files of %s (snapshot %s) are lost: they were not uploaded and %s", in.Job, in.Snapshot, where)
		if j.Def.Spec.Workspace.Mode == "required" {
			t.failInput(j, why)
			return g, false
		}
		return given{origin: api.OriginNone, code: api.WorkspaceLost, reason: why}, true
	}
	if w := t.w.waits[j.ID]; w != nil {
		w.lost = time.Time{}
	}
	return g, true
}

// whereabouts says where the only copies of a snapshot are when none of them can
// be reached; "" if one can. gone says that nobody may come back with one.
func (t *txn) whereabouts(id snapshot.ID) (where string, gone bool) {
	if allDurable(chain(t.snapshots.get, id)) {
		return "", false
	}
	var away []string
	for name, p := range t.w.fleet {
		h := t.hosts.get(name)
		_, holds := p.holds[id]
		if !p.known {
			// What it holds is not known; that it made the snapshot is.
			x := t.snapshots.get(id)
			holds = holds || (x != nil && x.Host == name)
		}
		switch {
		case !holds || h == nil:
		case h.State == api.HostReady && p.known:
			return "", false
		default:
			away = append(away, name)
		}
	}
	if len(away) == 0 {
		return "no host has them", true
	}
	slices.Sort(away)
	return strings.Join(away, ", ") + " can't be reached", false
}

// failInput ends a queued job that must have what can't be had.
func (t *txn) failInput(j *state.Job, why string) { t.failQueued(j, api.FailInput, why) }

// failQueued ends a job that waits for a host in vain.
func (t *txn) failQueued(j *state.Job, c api.Code, why string) {
	j = t.editJob(j.ID)
	j.Status, j.Code, j.Reason, j.EndMS = api.StatusFailed, c, why, t.ms()
	t.look[j.Pipeline] = true
	t.event(j.Pipeline, j, why)
}

// waiting gives the notes on a queued job.
func (t *txn) waiting(j *state.Job) *waiting {
	w := t.w.waits[j.ID]
	if w == nil {
		w = &waiting{told: map[api.Code]bool{}}
		t.w.waits[j.ID] = w
	}
	return w
}

// note records why a job waits. Only a new code is worth a commit.
func (t *txn) note(j *state.Job, c api.Code, reason string, cands []api.Candidate) {
	w := t.waiting(j)
	w.reason, w.candidates = reason, cands
	if j.Code == c && j.Reason != "" {
		return
	}
	j = t.editJob(j.ID)
	j.Code, j.Reason = c, reason
	if !w.told[c] {
		// A job that goes to and fro between two reasons tells each once.
		w.told[c] = true
		t.event(j.Pipeline, j, reason)
	}
}

// wait carries out a decision to leave a job in the queue.
func (t *txn) wait(w affinity.Waiting) {
	j := t.jobs.get(w.Job)
	c := api.Code(w.Code)
	n := t.waiting(j)
	if c == api.WaitHolder && n.could.IsZero() {
		n.could = t.now
	}
	for _, id := range w.Urgent {
		t.w.urgent[id] = t.now.Add(urgentFor)
	}
	t.note(j, c, w.Reason, candidates(w.Candidates))
}

func candidates(cs []affinity.Candidate) []api.Candidate {
	out := make([]api.Candidate, len(cs))
	for i, c := range cs {
		out[i] = api.Candidate{Host: c.Host, MissingBytes: c.Missing, Seconds: c.Seconds, Excluded: c.Excluded}
	}
	return out
}

// assign gives a job to a host: inputs fixed if they are not yet, the epoch raised,
// a new attempt under it.
func (t *txn) assign(a affinity.Assignment, g given) error {
	id, err := snapshot.NewID(t.s.o.Rand)
	if err != nil {
		return err
	}
	j := t.editJob(a.Job)
	p := t.pipelines.get(j.Pipeline)
	switch {
	case a.Seed != "":
		g = t.seedOf(p, j, a.Seed)
	case g.origin == api.OriginSeed:
		g = given{origin: api.OriginNone, code: api.WorkspaceSeedGone, reason: "its seed can't be had on " + a.Host}
	case g.code == api.WorkspaceCold:
		g.reason = "cold: " + g.reason
	}
	t.fix(j, g)
	j.Epoch++
	j.Attempts++
	j.AttemptID, j.Host, j.Status, j.Code, j.StartMS = id, a.Host, api.StatusAssigned, "", t.ms()
	j.Placed = api.Placement{Code: api.Code(a.Code), Reason: a.Reason, Candidates: candidates(a.Candidates)}
	j.Reason, j.ExitCode, j.RunMS, j.Workspace = a.Reason, 0, 0, api.Workspace{}
	t.keep(t.attempts.set(id, &state.Attempt{
		ID: id, Version: 1, Job: j.ID, Epoch: j.Epoch, Number: j.Attempts, Host: a.Host,
		Stage: state.AttemptAssigned, StartMS: t.ms(), Placed: j.Placed,
	}))
	t.assigned++
	now := t.now
	t.after = append(t.after, func() {
		if b := t.w.beats[id]; b != nil {
			b.assigned, b.missing, b.seconds = now, a.Missing, a.Seconds
		}
	})
	t.event(j.Pipeline, j, "assigned to "+a.Host+": "+a.Reason)
	return nil
}
