package coordinator

import (
	"slices"
	"strings"
	"time"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// urgentFor is how long a snapshot stays urgent after the last decision that
// wanted it.
const urgentFor = 30 * time.Second

// schedule builds the fleet, has it decided, and carries that out.
func (t *txn) schedule() error {
	queued, err := t.placeHeld(t.queued())
	if err != nil || len(queued) == 0 {
		return err
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
	case g.code == api.WorkspaceCold && !strings.HasPrefix(g.reason, "cold: "): // a retry has it
		g.reason = "cold: " + g.reason
	}
	t.fix(j, g)
	if w := t.w.waits[j.ID]; w != nil && j.Def.External != nil {
		j.Outside.Waited = w.reason
	}
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
