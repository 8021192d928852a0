package coordinator

import (
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// cancel ends what has not begun and asks the hosts to end what has. A job whose
// end is on its way meanwhile ends as its host says.
func (t *txn) cancel(id string) error {
	p := t.pipelines.get(id)
	if p == nil || p.Status.Ended() || p.Canceled {
		return nil
	}
	p = t.editPipeline(id)
	p.Canceled = true
	t.event(id, nil, "canceled by its user")
	for _, jid := range p.Jobs {
		j := t.jobs.get(jid)
		if j.Status.Ended() {
			continue
		}
		t.editJob(jid).Cancel = true
		a := t.attempts.get(j.AttemptID)
		switch {
		case a == nil || a.Stage == state.AttemptEnded:
			t.endCanceled(jid)
		case a.Stage == state.AttemptAssigned:
			// Nobody took it yet; whoever does is told that it is over.
			t.endAttempt(a.ID, api.StatusCanceled, api.FailCanceled, "the pipeline was canceled")
			t.endCanceled(jid)
		}
	}
	t.look[id] = true
	return nil
}

// endCanceled ends a job that runs nowhere.
func (t *txn) endCanceled(id string) {
	j := t.editJob(id)
	j.Status, j.Code, j.Reason, j.EndMS = api.StatusCanceled, api.FailCanceled, "the pipeline was canceled", t.ms()
	t.owe(id, "canceled in Roost by its user", false)
	t.look[j.Pipeline] = true
	t.event(j.Pipeline, j, j.Reason)
}
