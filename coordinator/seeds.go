package coordinator

import (
	"fmt"
	"slices"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// keepSeeds is how many seeds are kept for each job and fingerprint: the newest is
// wanted, the older ones stand in when it can't be had.
const keepSeeds = 3

// zoneBranch is the zone of everything that is submitted here.
const zoneBranch = "branch"

// plantSeeds makes the outputs of a green pipeline's first jobs the seeds of later
// ones. Only jobs that no parent gave anything are seeded, so only theirs are kept.
// An older pipeline that ends later does not become the newest.
func (t *txn) plantSeeds(p *state.Pipeline) {
	for _, id := range p.Jobs {
		t.plantSeed(p, t.jobs.get(id))
	}
}

func (t *txn) plantSeed(p *state.Pipeline, j *state.Job) {
	if j.Status != api.StatusSuccess || j.Output == "" || j.Origin == api.OriginParent {
		return
	}
	x := t.snapshots.get(j.Output)
	if x == nil {
		return
	}
	s := state.Seed{
		Project: p.Project, Zone: p.Zone, Job: j.Def.Spec.Name, Fingerprint: x.Fingerprint,
		Number: p.Number, Snapshot: j.Output,
	}
	have := t.w.seeds[keyOf(s)][s.Fingerprint]
	again := slices.ContainsFunc(have, func(o state.Seed) bool { return o.Number == s.Number })
	if len(have) >= keepSeeds && !again {
		oldest := have[len(have)-1]
		if oldest.Number > s.Number {
			return
		}
		t.drops = append(t.drops, oldest)
	}
	t.seeds = append(t.seeds, s)
}

// seedsFor gives the chains that j may start from, by fingerprint, and why there
// are none if there are none.
func (t *txn) seedsFor(p *state.Pipeline, j *state.Job) (map[string][]affinity.Chain, string) {
	out := map[string][]affinity.Chain{}
	why := "no earlier green pipeline of this project has this job"
	for fingerprint, seeds := range t.w.seeds[seedKey{p.Project, p.Zone, j.Def.Spec.Name}] {
		for _, s := range seeds {
			c := chain(t.snapshots.get, s.Snapshot)
			if len(c) > t.s.o.MaxChain {
				why = fmt.Sprintf("the seed of pipeline %d stands on %d layers: a new line begins", s.Number, len(c))
				break
			}
			out[fingerprint] = append(out[fingerprint], c)
		}
	}
	if len(out) > 0 {
		why = "its seeds can't be had on this host"
	}
	return out, why
}
