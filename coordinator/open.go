package coordinator

import (
	"slices"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// plantOpen makes a success in a pipeline that nobody will see the end of a seed, as
// long as nothing in it failed.
func (t *txn) plantOpen(p *state.Pipeline, j *state.Job) {
	for _, id := range p.Jobs {
		if o := t.jobs.get(id); o.Status == api.StatusFailed && t.newest(o) {
			return
		}
	}
	t.plantSeed(p, j)
}

// endOpen sets the status so far of a pipeline that may still get jobs.
func (t *txn) endOpen(p *state.Pipeline) {
	status := api.StatusSuccess
	for _, id := range p.Jobs {
		j := t.jobs.get(id)
		switch {
		case !j.Status.Ended():
			if p.Status != api.StatusRunning {
				p = t.editPipeline(p.ID)
				p.Status, p.EndedMS = api.StatusRunning, 0
			}
			return
		case !t.newest(j):
		case j.Status == api.StatusCanceled:
			status = api.StatusCanceled
		case j.Status == api.StatusFailed && status == api.StatusSuccess:
			status = api.StatusFailed
		}
	}
	if p.Canceled {
		status = api.StatusCanceled
	}
	if p.Status == status {
		return
	}
	p = t.editPipeline(p.ID)
	p.Status, p.EndedMS = status, t.ms()
	t.event(p.ID, nil, string(status)+" so far")
}

// closeIdle closes the pipelines that got no job for a while. A job that comes later
// opens its pipeline again.
func (t *txn) closeIdle() {
	for id := range t.w.pipelines {
		p := t.pipelines.get(id)
		if !p.Open || !p.Status.Ended() || t.ms()-max(p.AddedMS, p.EndedMS) < t.s.o.PipelineIdle.Milliseconds() {
			continue
		}
		owed := slices.ContainsFunc(p.Jobs, func(id string) bool { return t.jobs.get(id).Outside.Owed != "" })
		if !owed {
			t.editPipeline(id).Open = false
		}
	}
}
