package coordinator

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/internal/fail"
)

// outsideKey names a job of another system.
func outsideKey(instance string, id int64) string { return instance + "#" + strconv.FormatInt(id, 10) }

// take keeps a job that GitLab gave out. When it returns nil the job is durable, and
// not before that does anybody hear of it. A job that is here already is here once.
func (s *Server) take(ctx context.Context, from gitlab.Pool, j *gitlab.Job, payload []byte) error {
	if err := s.takeInto(ctx, j, func(t *txn) error {
		fail.Point("coordinator.take")
		return t.take(from, j, payload, "", 0)
	}); err != nil {
		return err
	}
	fail.Point("coordinator.take.committed")
	return nil
}

// take makes the records of a job. host and slot are set if a runner has it already.
func (t *txn) take(from gitlab.Pool, g *gitlab.Job, payload []byte, host string, slot int) error {
	if old := t.outsider(g.Instance, g.ID); old != nil && !old.Status.Ended() {
		if host != "" && old.Def.External.Host != host { // or its payload would be of that host's making
			return invalid("job %d is here already, and not from this host", g.ID)
		}
		a := t.attempts.get(old.AttemptID)
		if a != nil && a.Stage != state.AttemptAssigned && a.Stage != state.AttemptEnded {
			t.s.log.Warn("GitLab gave a job again that runs already", "job", g.ID, "host", a.Host)
			return nil
		}
		t.editJob(old.ID).Outside.Given++
		return t.seal(old.ID, payload) // it may have another token now
	}
	p, err := t.openPipeline(g)
	if err != nil {
		return err
	}
	id, err := t.ulid()
	if err != nil {
		return err
	}
	j := &state.Job{ID: id, Version: 1, Pipeline: p.ID, Index: len(p.Jobs), Status: api.StatusPending}
	j.Def = t.defineOutside(from, g)
	j.Def.External.Host, j.Def.External.Slot = host, slot
	j.Outside.Notes = g.Settings.Notes
	if len(g.Settings.NeverUpload) > 0 {
		j.Outside.Notes = append(slices.Clip(j.Outside.Notes),
			"ROOST_NEVER_UPLOAD: this version can't keep single files on their host, so nothing of this job's workspace is kept")
	}
	if j.Def.External.Off == "" {
		t.fromOf(p, g, j)
		j.Outside.Asking = g.Path != "" && host == "" && t.s.apiToken(from.Name) != ""
	}
	t.keep(t.jobs.set(id, j))
	if err := t.seal(id, payload); err != nil {
		return err
	}
	p = t.editPipeline(p.ID)
	p.Jobs, p.AddedMS = append(slices.Clip(p.Jobs), id), t.ms()
	t.nameJob(p.ID, j)
	t.taken[outsideKey(g.Instance, g.ID)] = id
	t.queue(id)
	t.look[p.ID] = true
	if off := j.Def.External.Off; off != "" && j.Def.Spec.Workspace.Mode == pipeline.ModeRequired {
		t.failInput(t.jobs.get(id), "it asks for its workspace, which it can't have: "+off)
	}
	return nil
}

// outsider finds the newest record of a job of another system.
func (t *txn) outsider(instance string, id int64) *state.Job {
	key := outsideKey(instance, id)
	if jid, ok := t.taken[key]; ok {
		if j := t.jobs.get(jid); j != nil {
			return j
		}
	}
	return t.jobs.get(t.w.byOutside[key])
}

// seal adds the payload of a job to the batch.
func (t *txn) seal(job string, payload []byte) error {
	b, err := t.s.vault.seal(job, payload)
	if err != nil {
		return err
	}
	t.payloads = append(t.payloads, state.Payload{Job: job, Sealed: b})
	return nil
}

// nameJob makes j the one of its name in this batch.
func (t *txn) nameJob(p string, j *state.Job) {
	names, ok := t.names[p]
	if !ok {
		names = t.w.byName[p]
	}
	next := make(map[string]string, len(names)+1)
	maps.Copy(next, names)
	next[j.Def.Spec.Name] = j.ID
	old, had := t.names[p]
	t.names[p] = next
	t.undo = append(t.undo, func() {
		delete(t.names, p)
		if had {
			t.names[p] = old
		}
	})
}
