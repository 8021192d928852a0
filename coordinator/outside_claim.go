package coordinator

import (
	"fmt"
	"slices"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// external makes the part of a claim that comes from another system, without the
// payload.
func (t *txn) external(j *state.Job) *api.External {
	e := j.Def.External
	if e == nil {
		return nil
	}
	notes := j.Outside.Notes
	if s := (j.StartMS - e.ReceivedMS) / 1000; s >= 2 && len(j.Outside.Log) == 0 && j.Outside.Waited != "" {
		notes = append(slices.Clip(notes), fmt.Sprintf("waited %d s for a host: %s", s, j.Outside.Waited))
	}
	return &api.External{
		System: e.System, ID: fmt.Sprint(e.ID), Slot: e.Slot, AgeMS: max(0, t.ms()-e.ReceivedMS), Log: j.Outside.Log,
		Name: e.Name, Off: e.Off, Parents: j.Outside.Rule, Contained: t.contained(j), Durability: e.Durability,
		FetchBudgetMS: e.FetchBudgetMS, Notes: notes,
	}
}

// contained lists the jobs of j's pipeline, by their system's ids, whose files are all
// in j's inputs: those that made an input or something that it came from, and those
// that left such a thing as it was.
func (t *txn) contained(j *state.Job) []string {
	in := map[snapshot.ID]bool{}
	for _, i := range j.Inputs {
		in[i.Snapshot] = true
		t.ancestors(i.Snapshot, in)
	}
	p := t.pipelines.get(j.Pipeline)
	if p == nil || len(in) == 0 {
		return nil
	}
	var out []string
	for _, id := range p.Jobs {
		o := t.jobs.get(id)
		if o == nil || o.ID == j.ID || o.Status != api.StatusSuccess || o.Def.External == nil {
			continue
		}
		has := o.Output != "" && in[o.Output]
		if o.Output == "" && o.Code == api.SealUnchanged && len(o.Inputs) > 0 {
			has = !slices.ContainsFunc(o.Inputs, func(i api.Input) bool { return !in[i.Snapshot] })
		}
		if has {
			out = append(out, fmt.Sprint(o.Def.External.ID))
		}
	}
	return out
}
