package coordinator

import (
	"fmt"
	"slices"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/state"
)

// fromOf finds the jobs whose files a new job j starts from, and notes by which rule.
func (t *txn) fromOf(p *state.Pipeline, g *gitlab.Job, j *state.Job) {
	o := &j.Outside
	switch {
	case g.Settings.HasNeeds:
		o.Rule = "ROOST_NEEDS"
		o.From, o.Notes = t.fromNames(j, g.Settings.Needs, o.Notes, "ROOST_NEEDS names")
	case g.Dependencies != nil:
		o.Rule = "dependencies"
		for _, id := range g.Dependencies {
			if d := t.outsider(g.Instance, id); d != nil && d.Pipeline == p.ID && !slices.Contains(o.From, d.ID) {
				o.From = append(o.From, d.ID)
			}
		}
	default:
		o.Rule = "the jobs of other stages that had succeeded"
		for _, id := range p.Jobs {
			d := t.jobs.get(id)
			if d.Status == api.StatusSuccess && d.Def.Spec.Stage != g.Stage && t.newest(d) {
				o.From = append(o.From, id)
			}
		}
	}
}

// fromNames finds the newest job of each name in j's pipeline; a success goes before
// anything else. It adds to notes those that are not there.
func (t *txn) fromNames(j *state.Job, names, notes []string, who string) (out, noted []string) {
	notes = slices.Clip(notes)
	for _, name := range names {
		found := ""
		for _, id := range slices.Backward(t.pipelines.get(j.Pipeline).Jobs) {
			o := t.jobs.get(id)
			if o.Def.Spec.Name != name || id == j.ID {
				continue
			}
			if found == "" || o.Status == api.StatusSuccess {
				found = id
			}
			if o.Status == api.StatusSuccess {
				break
			}
		}
		if found == "" {
			notes = append(notes, fmt.Sprintf("%s %q, which did not run here in this pipeline", who, name))
			continue
		}
		out = append(out, found)
	}
	return out, notes
}

// newest reports whether j is the newest job of its name in its pipeline.
func (t *txn) newest(j *state.Job) bool {
	n := t.job(j.Pipeline, j.Def.Spec.Name)
	return n == nil || n.ID == j.ID
}
