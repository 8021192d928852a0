package coordinator

import (
	"fmt"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// maxLineage bounds walks over snapshots: a damaged lineage must not hold up the
// loop.
const maxLineage = 100_000

// given is what a job starts from.
type given struct {
	inputs []api.Input
	origin string
	code   api.Code
	reason string
	// broken are parents that have no output although they should.
	broken []string
}

// given works out what j starts from: what was fixed at its first assignment, or
// the outputs of its parents. A job that no parent gives anything has OriginNone;
// a seed is looked for then.
func (t *txn) given(j *state.Job) given {
	if j.Fixed {
		return given{inputs: j.Inputs, origin: j.Origin, code: j.InputCode, reason: j.InputReason}
	}
	if e := j.Def.External; e != nil && e.Off != "" {
		return given{origin: api.OriginNone, code: api.WorkspaceOff, reason: e.Off}
	}
	if j.Def.Spec.Workspace.Disabled {
		return given{origin: api.OriginNone, code: api.WorkspaceDisabled, reason: "workspace: false"}
	}
	g := given{origin: api.OriginNone, code: api.WorkspaceCold}
	seen := map[snapshot.ID]bool{}
	for _, p := range t.parents(j) {
		ins, ok := passes(p)
		if !ok {
			g.broken = append(g.broken, p.Def.Spec.Name)
		}
		for _, in := range ins {
			if !seen[in.Snapshot] {
				seen[in.Snapshot] = true
				g.inputs = append(g.inputs, in)
			}
		}
	}
	g.inputs = t.maximal(g.inputs)
	switch {
	case len(g.inputs) == 1:
		g.origin, g.code, g.reason = api.OriginParent, api.WorkspaceParent, "output of "+g.inputs[0].Job
	case len(g.inputs) > 1:
		names := make([]string, len(g.inputs))
		for i, in := range g.inputs {
			names[i] = in.Job
		}
		g.origin, g.code, g.reason = api.OriginParent, api.WorkspaceMerged, "outputs of "+strings.Join(names, ", ")
	}
	return g
}

// parents are the jobs whose workspaces j inherits, those of them that are known.
func (t *txn) parents(j *state.Job) []*state.Job {
	var out []*state.Job
	for _, id := range j.Outside.From {
		if p := t.jobs.get(id); p != nil {
			out = append(out, p)
		}
	}
	for _, name := range j.Def.Parents {
		if p := t.job(j.Pipeline, name); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// passes gives what a parent that has ended hands to its children. A job that left
// the tree as it was, or did not want it kept, hands on what it got; so does one
// that failed. ok is false if its output should exist and does not.
func passes(p *state.Job) (ins []api.Input, ok bool) {
	switch p.Status {
	case api.StatusSuccess:
		switch {
		case p.Output != "":
			return []api.Input{{Job: p.Def.Spec.Name, Snapshot: p.Output}}, true
		case p.Def.Spec.Workspace.Disabled:
			return nil, true
		case p.Code == api.SealUnchanged || p.Code == api.SealNever || p.Def.Spec.Workspace.Commit == pipeline.CommitNever:
			return p.Inputs, true
		}
		return nil, false
	case api.StatusFailed:
		return p.Inputs, true
	default: // skipped or canceled: nothing came of it
		return nil, true
	}
}

// maximal drops inputs that are ancestors of other ones: they are contained.
func (t *txn) maximal(ins []api.Input) []api.Input {
	if len(ins) < 2 {
		return ins
	}
	above := map[snapshot.ID]bool{}
	for _, in := range ins {
		t.ancestors(in.Snapshot, above)
	}
	var out []api.Input
	for _, in := range ins {
		if !above[in.Snapshot] {
			out = append(out, in)
		}
	}
	return out
}

// ancestors adds all snapshots that id came from, without id itself.
func (t *txn) ancestors(id snapshot.ID, into map[snapshot.ID]bool) {
	todo := []snapshot.ID{id}
	for len(todo) > 0 && len(into) < maxLineage {
		x := t.snapshots.get(todo[len(todo)-1])
		todo = todo[:len(todo)-1]
		if x == nil {
			continue
		}
		for _, p := range x.Parents {
			if !into[p] {
				into[p] = true
				todo = append(todo, p)
			}
		}
	}
}

// fix gives j its inputs for good, at its first assignment.
func (t *txn) fix(j *state.Job, g given) {
	j.Fixed, j.Inputs, j.Origin, j.InputCode, j.InputReason = true, g.inputs, g.origin, g.code, g.reason
}

// seedOf makes the input of a seed.
func (t *txn) seedOf(p *state.Pipeline, j *state.Job, id snapshot.ID) given {
	reason := "output of an earlier pipeline"
	for _, seeds := range t.w.seeds[seedKey{p.Project, p.Zone, j.Def.Spec.Name}] {
		for _, s := range seeds {
			if s.Snapshot == id {
				reason = fmt.Sprintf("seed of pipeline %d", s.Number)
			}
		}
	}
	return given{
		inputs: []api.Input{{Job: j.Def.Spec.Name, Snapshot: id}},
		origin: api.OriginSeed, code: api.WorkspaceSeed, reason: reason,
	}
}
