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
			Name: name, Fingerprint: h.Fingerprint, Tags: h.Tags, Pool: h.Pool, Slots: h.Slots,
			Free: max(0, h.Slots-len(live)-p.withheld), Rate: p.fetch,
			Has: make(map[snapshot.ID]bool, len(p.holds)), Coming: map[snapshot.ID]float64{}, Parts: p.parts,
		}
		back := t.runnersBack(p)
		if back > 0 && p.polls == 0 && !t.now.Before(p.expect) {
			ah.Free = 0 // none of its runners asks now, but one is about to
		}
		ah.Off = t.off(h, p, ah.Free)
		for range min(back, h.Slots-len(live)-ah.Free) {
			ah.Residual = append(ah.Residual, 0)
		}
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

// runnersBack counts the runners of a host that have ended a job just now: a job that is
// complete there does better to wait for one of them than to move.
func (t *txn) runnersBack(p *presence) int {
	n := 0
	for _, at := range p.back {
		if t.now.Sub(at) < runnerBack {
			n++
		}
	}
	return n
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
			h.Arrive(chain(t.snapshots.get, in.Snapshot), left)
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
	if e := j.Def.External; e != nil {
		aj.Pool, aj.MaxWait = e.Pool, outsideBound(j)
	}
	if t.notNow(j) {
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
		if j.Def.External != nil {
			t.waiting(j).bytes = t.treeBytes(g.inputs)
		}
	case !j.Fixed && g.code == api.WorkspaceCold:
		aj.Seeds, g.reason = t.seedsFor(p, j)
	}
	if w := t.w.waits[j.ID]; w != nil && !w.could.IsZero() {
		aj.Waited = t.now.Sub(w.could).Seconds()
	}
	return aj, g, true
}

// notNow reports whether a queued job can't be placed now wherever that would be: it has
// waited for too long, which ends it, or has to wait a while.
func (t *txn) notNow(j *state.Job) bool {
	if since, limit := t.queueLimit(j); t.now.Sub(time.UnixMilli(since)) > limit {
		t.failQueued(j, api.FailTimeout, fmt.Sprintf("no host could run it for %s: %s", limit, j.Reason))
		return true
	}
	if j.Def.External != nil && t.outsideWait(j) != "" {
		return true
	}
	if t.ms() < j.NotBefore {
		t.note(j, api.WaitSlot, fmt.Sprintf("tried again in %.0f s", float64(j.NotBefore-t.ms())/1e3), nil)
		return true
	}
	return false
}

// treeBytes is the size of the largest of ins, as far as it is known.
func (t *txn) treeBytes(ins []api.Input) int64 {
	most := int64(0)
	for _, in := range ins {
		if x := t.snapshots.get(in.Snapshot); x != nil {
			most = max(most, x.Bytes, x.Layer.TreeBytes)
		}
	}
	return most
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
