package coordinator

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// Bounds of what one answer lists.
const (
	maxPipelines = 1000
	maxEvents    = 1000
)

// pipelineID makes the id of a pipeline of its id or number.
func (s *Server) pipelineID(ctx context.Context, text string) (string, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
		return s.state.PipelineID(ctx, n)
	}
	id := strings.ToUpper(text)
	s.mu.RLock()
	p := s.world.pipelines[id]
	s.mu.RUnlock()
	if p == nil {
		if _, _, err := s.state.Pipeline(ctx, id); err != nil {
			return "", err
		}
	}
	return id, nil
}

// pipeline gives a pipeline with its jobs.
func (s *Server) pipeline(ctx context.Context, id string) (*api.Pipeline, error) {
	p, jobs, err := s.records(ctx, id)
	if err != nil {
		return nil, err
	}
	outs, err := s.outputs(ctx, jobs)
	if err != nil {
		return nil, err
	}
	out := showPipeline(p)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, j := range jobs {
		out.Jobs = append(out.Jobs, s.showJob(j, outs[j.Output]))
	}
	return &out, nil
}

// records gives a pipeline and its jobs, from memory while it runs.
func (s *Server) records(ctx context.Context, id string) (*state.Pipeline, []*state.Job, error) {
	s.mu.RLock()
	p := s.world.pipelines[id]
	var jobs []*state.Job
	if p != nil {
		for _, jid := range p.Jobs {
			jobs = append(jobs, s.world.jobs[jid])
		}
	}
	s.mu.RUnlock()
	if p != nil {
		return p, jobs, nil
	}
	return s.state.Pipeline(ctx, id)
}

// outputs gives the snapshots that jobs made.
func (s *Server) outputs(ctx context.Context, jobs []*state.Job) (map[snapshot.ID]*state.Snapshot, error) {
	out := map[snapshot.ID]*state.Snapshot{}
	var missing []snapshot.ID
	s.mu.RLock()
	for _, j := range jobs {
		if j.Output == "" {
			continue
		}
		if x := s.world.snapshots[j.Output]; x != nil {
			out[j.Output] = x
		} else {
			missing = append(missing, j.Output)
		}
	}
	s.mu.RUnlock()
	xs, err := s.state.Snapshots(ctx, missing)
	for _, x := range xs {
		out[x.ID] = x
	}
	return out, err
}

func showPipeline(p *state.Pipeline) api.Pipeline {
	return api.Pipeline{
		ID: p.ID, Number: p.Number, Project: p.Project, File: p.File, Status: p.Status,
		CreatedMS: p.CreatedMS, EndedMS: p.EndedMS,
	}
}

// showJob makes what callers see of a job. s.mu is held for reading.
func (s *Server) showJob(j *state.Job, out *state.Snapshot) api.Job {
	v := api.Job{
		ID: j.ID, Name: j.Def.Spec.Name, Stage: j.Def.Spec.Stage, Needs: j.Def.Waits, Tags: j.Def.Tags,
		AllowFailure: mayFail(j), Status: j.Status, Attempt: j.Attempts, AttemptID: j.AttemptID, Host: j.Host,
		Code: j.Code, Reason: j.Reason, ExitCode: j.ExitCode, QueuedMS: j.QueuedMS, StartMS: j.StartMS,
		RunMS: j.RunMS, EndMS: j.EndMS, Placed: j.Placed, Workspace: j.Workspace,
	}
	if e := j.Def.External; e != nil {
		v.Origin = &api.Origin{System: e.System, ID: e.ID, Web: e.Web, Pool: e.Pool, Owed: j.Outside.Owed}
	}
	if w := s.world.waits[j.ID]; w != nil && j.Status == api.StatusQueued {
		v.Reason = w.reason
		v.Placed = api.Placement{Code: j.Code, Reason: w.reason, Candidates: w.candidates}
	}
	if j.Output != "" {
		v.Workspace.Output = j.Output
	}
	if out != nil && out.Packed {
		v.Layer = out.Layer
	}
	return v
}

func (c *call) pipeline() error {
	id, err := c.s.pipelineID(c.r.Context(), c.args["id"])
	if err != nil {
		return err
	}
	p, err := c.s.pipeline(c.r.Context(), id)
	if err != nil {
		return err
	}
	return c.json(200, p)
}

func (c *call) pipelines() error {
	n, err := c.query("n", 20)
	if err != nil {
		return err
	}
	ps, err := c.s.state.Pipelines(c.r.Context(), c.r.URL.Query().Get("project"), int(min(n, maxPipelines)))
	if err != nil {
		return err
	}
	out := make([]api.Pipeline, 0, len(ps))
	for _, p := range ps {
		out = append(out, showPipeline(p))
	}
	return c.json(200, out)
}

func (c *call) job() error {
	j, attempts, err := c.s.state.Job(c.r.Context(), strings.ToUpper(c.args["id"]))
	if err != nil {
		return err
	}
	p, _, err := c.s.records(c.r.Context(), j.Pipeline)
	if err != nil {
		return err
	}
	outs, err := c.s.outputs(c.r.Context(), []*state.Job{j})
	if err != nil {
		return err
	}
	d := api.JobDetail{PipelineID: p.ID, PipelineNumber: p.Number, Project: p.Project}
	c.s.mu.RLock()
	d.Job = c.s.showJob(j, outs[j.Output])
	c.s.mu.RUnlock()
	for _, a := range attempts {
		d.Attempts = append(d.Attempts, showAttempt(a))
	}
	return c.json(200, d)
}

func showAttempt(a *state.Attempt) api.Attempt {
	status := a.Status
	if status == "" {
		status = api.StatusAssigned
		if a.Stage == state.AttemptRunning {
			status = api.StatusRunning
		}
	}
	return api.Attempt{
		ID: a.ID, Number: a.Number, Epoch: a.Epoch, Host: a.Host, Status: status, Code: a.Code, Reason: a.Reason,
		ExitCode: a.ExitCode, StartMS: a.StartMS, RunMS: a.RunMS, EndMS: a.EndMS, Placed: a.Placed, Workspace: a.Workspace,
	}
}

// events answers with what happened in a pipeline, waiting for the first thing.
func (c *call) events() error {
	after, err := c.query("after", 0)
	if err != nil {
		return err
	}
	wait, err := c.waitFor()
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	id, err := c.s.pipelineID(ctx, c.args["id"])
	if err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for over := wait == 0; ; {
		changed, stop := c.s.hub.wait(eventsOf(id))
		es, err := c.s.state.Events(ctx, id, after, maxEvents)
		if err != nil || len(es) > 0 || over {
			stop()
			if err != nil {
				return err
			}
			return c.json(200, append([]api.Event{}, es...))
		}
		select {
		case <-changed:
		case <-timer.C:
			over = true
		case <-c.s.stopping:
			over = true
		case <-ctx.Done():
			err = ctx.Err()
		}
		stop()
		if err != nil {
			return err
		}
	}
}

func (c *call) hosts() error { return c.json(200, c.s.showHosts()) }

// showHosts lists all hosts by name.
func (s *Server) showHosts() []api.Host {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]api.Host, 0, len(s.world.hosts))
	for name, h := range s.world.hosts {
		p := s.world.fleet[name]
		v := api.Host{
			Name: name, State: h.State, Slots: h.Slots, Running: len(s.world.live[name]), Tags: h.Tags, Driver: h.Driver,
			OS: h.OS, Arch: h.Arch, Fingerprint: h.Fingerprint, Version: h.Software, SinceMS: h.SinceMS,
			Pool: h.Pool, Snapshots: len(p.holds), DiskFree: p.diskFree, DiskTotal: p.diskTotal, Queue: p.queue,
			Evicted: p.evicted, EvictedBytes: p.evictedBytes,
		}
		if !p.seen.IsZero() {
			v.SeenMS = p.seen.UnixMilli()
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b api.Host) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// finish ends an attempt. One whose pipeline is over and forgotten may still be
// asked about: its answer was lost.
func (s *Server) finish(ctx context.Context, ref api.AttemptRef, f api.Finish) (out api.Finished, err error) {
	s.mu.RLock()
	known := s.world.attempts[ref.Attempt] != nil
	s.mu.RUnlock()
	if !known {
		a, err := s.state.Attempt(ctx, ref.Attempt)
		if err == nil && a.Epoch == ref.Epoch && a.Finished {
			return api.Finished{Output: a.IsOutput}, nil
		}
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return out, err
		}
	}
	adopt, err := s.adopt(ctx, f.Output)
	if err != nil {
		return out, err
	}
	var got api.Finished
	if err := s.do(ctx, func(t *txn) (err error) {
		fail.Point("coordinator.finish")
		adopt(t)
		got, err = t.finish(ref, f)
		return err
	}); err != nil {
		return out, err // got may still be written
	}
	fail.Point("coordinator.finish.committed")
	return got, nil
}
