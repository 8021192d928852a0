package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// pipelineKey names a pipeline of another system. The zone is part of it: what is
// trusted more and what is trusted less never share a line. No submission can have such
// a key: it begins with what is not printable.
func pipelineKey(j *gitlab.Job) string {
	return fmt.Sprintf("\x1f%s:%s/%d/%d#%s", api.SystemGitLab, j.Instance, j.ProjectID, j.PipelineID, j.Zone)
}

// errClosed says that a pipeline was closed between the look at it and the operation.
var errClosed = errors.New("the pipeline was closed just now")

// takeInto runs f with the pipeline of j in the picture, if there is one.
func (s *Server) takeInto(ctx context.Context, j *gitlab.Job, f func(*txn) error) error {
	for {
		adopt, err := s.reopen(ctx, pipelineKey(j))
		if err != nil {
			return err
		}
		if err := s.do(ctx, func(t *txn) error {
			if err := adopt(t); err != nil {
				return err
			}
			return f(t)
		}); !errors.Is(err, errClosed) {
			return err
		}
	}
}

// hasPipeline reports whether there is a pipeline for a job.
func (t *txn) hasPipeline(g *gitlab.Job) bool { return t.findPipeline(g) != nil }

func (t *txn) findPipeline(g *gitlab.Job) *state.Pipeline {
	key := pipelineKey(g)
	for _, p := range t.pipelines.dirty {
		if p.Key == key {
			return p
		}
	}
	return t.pipelines.get(t.w.byKey[key])
}

// openPipeline finds the pipeline of a job, or makes it.
func (t *txn) openPipeline(g *gitlab.Job) (*state.Pipeline, error) {
	if p := t.findPipeline(g); p != nil {
		return t.openAgain(p), nil
	}
	key := pipelineKey(g)
	id, err := t.ulid()
	if err != nil {
		return nil, err
	}
	t.number++
	p := &state.Pipeline{
		ID: id, Version: 1, Number: t.number, Project: projectOf(g), Key: key, Zone: g.Zone,
		File: fmt.Sprintf("pipeline %d, %s", g.PipelineID, refText(g)), Status: api.StatusRunning,
		CreatedMS: t.ms(), Open: true, AddedMS: t.ms(),
	}
	if g.PipelineID <= 0 {
		p.File = refText(g)
	}
	t.keep(t.pipelines.set(id, p))
	if err := t.domain(p.Project, p.Zone); err != nil {
		return nil, err
	}
	t.event(id, nil, p.File+" of "+p.Project)
	return t.pipelines.get(id), nil
}

func (t *txn) openAgain(p *state.Pipeline) *state.Pipeline {
	if p.Open && !p.Status.Ended() {
		return p
	}
	p = t.editPipeline(p.ID)
	p.Open, p.Status, p.EndedMS, p.Canceled = true, api.StatusRunning, 0, false
	return p
}

func refText(g *gitlab.Job) string {
	sha := g.SHA[:min(len(g.SHA), 8)]
	return strings.TrimSpace(g.Ref + " " + sha)
}

// reopen reads a pipeline of another system that was closed, with all that its jobs
// may refer to. It gives what the operation has to call first.
func (s *Server) reopen(ctx context.Context, key string) (func(*txn) error, error) {
	s.mu.RLock()
	_, here := s.world.byKey[key]
	s.mu.RUnlock()
	if here {
		return func(t *txn) error {
			if t.w.byKey[key] == "" {
				return errClosed
			}
			return nil
		}, nil
	}
	p, err := s.state.PipelineByKey(ctx, key)
	if errors.Is(err, state.ErrNotFound) {
		return func(*txn) error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := s.readClosed(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	return func(t *txn) error {
		if t.pipelines.get(p.ID) == nil && t.w.byKey[key] == "" {
			c.adopt(t)
			t.w.byKey[key] = p.ID
		}
		return nil
	}, nil
}

// closed is a pipeline that is not in the picture.
type closed struct {
	pipeline  *state.Pipeline
	jobs      []*state.Job
	attempts  []*state.Attempt
	snapshots []*state.Snapshot
}

// readClosed reads one with all that its jobs may refer to.
func (s *Server) readClosed(ctx context.Context, id string) (c *closed, err error) {
	c = &closed{}
	if c.pipeline, c.jobs, err = s.state.Pipeline(ctx, id); err != nil {
		return nil, err
	}
	var ids []snapshot.ID
	for _, j := range c.jobs {
		_, as, err := s.state.Job(ctx, j.ID)
		if err != nil {
			return nil, err
		}
		c.attempts = append(c.attempts, as...)
		ids = append(ids, j.Output)
		for _, in := range j.Inputs {
			ids = append(ids, in.Snapshot)
		}
	}
	c.snapshots, err = s.ancestry(ctx, ids)
	return c, err
}

// adopt puts it into the picture.
func (c *closed) adopt(t *txn) {
	t.w.putPipeline(c.pipeline)
	for _, j := range c.jobs {
		t.w.putJob(j)
	}
	for _, a := range c.attempts {
		t.w.putAttempt(a)
	}
	for _, x := range c.snapshots {
		if t.snapshots.get(x.ID) == nil {
			t.w.snapshots[x.ID] = x
		}
	}
}

// ancestry reads snapshots and all that they stand on.
func (s *Server) ancestry(ctx context.Context, ids []snapshot.ID) ([]*state.Snapshot, error) {
	var out []*state.Snapshot
	seen := map[snapshot.ID]bool{"": true}
	for len(ids) > 0 && len(out) < maxLineage {
		var next []snapshot.ID
		for _, id := range ids {
			if !seen[id] {
				seen[id] = true
				next = append(next, id)
			}
		}
		xs, err := s.state.Snapshots(ctx, next)
		if err != nil {
			return nil, err
		}
		out = append(out, xs...)
		ids = nil
		for _, x := range xs {
			ids = append(append(ids, x.Parents...), x.Layer.Base)
		}
	}
	return out, nil
}
