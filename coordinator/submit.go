package coordinator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/internal/fail"
)

const (
	maxProject   = 255
	maxKey       = 128
	maxVariables = 1000
	// keyMemory is how long a submission's key is remembered in memory; before it
	// comes in, it is looked up in the store.
	keyMemory = 10 * time.Minute
)

// submit starts a pipeline. created is false if it was there under the same key.
func (s *Server) submit(ctx context.Context, key string, sub api.Submit) (out *api.Submitted, created bool, err error) {
	if err := s.checkSubmit(key, sub); err != nil {
		return nil, false, err
	}
	body, err := json.Marshal(sub)
	if err != nil {
		return nil, false, err
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	if p, err := s.state.PipelineByKey(ctx, key); err == nil {
		return s.submitted(ctx, p.ID, p.KeyHash, hash)
	} else if !errors.Is(err, state.ErrNotFound) {
		return nil, false, err
	}
	g, problems := pipeline.Parse(sub.File, []byte(sub.Text), pipeline.Options{Variables: sub.Variables})
	if g == nil {
		return nil, false, &api.Error{HTTP: 422, Code: api.CodePipeline, Text: wrong(sub.File, problems), Problems: problems}
	}
	id, have := "", keyed{}
	if err := s.do(ctx, func(t *txn) (err error) {
		if have = t.keyed(key); have.pipeline != "" {
			return nil
		}
		fail.Point("coordinator.submit")
		id, err = t.create(key, hash, sub, g, problems)
		return err
	}); err != nil {
		return nil, false, err
	}
	fail.Point("coordinator.submit.committed")
	if have.pipeline != "" {
		return s.submitted(ctx, have.pipeline, have.hash, hash)
	}
	p, err := s.pipeline(ctx, id)
	if err != nil {
		return nil, false, err
	}
	return &api.Submitted{Pipeline: *p, Problems: problems}, true, nil
}

// submitted answers a key that was used before.
func (s *Server) submitted(ctx context.Context, id, was, hash string) (*api.Submitted, bool, error) {
	if was != hash {
		return nil, false, &api.Error{HTTP: 409, Code: api.CodeConflict, Text: "this idempotency key was used for another pipeline; use a new one"}
	}
	p, err := s.pipeline(ctx, id)
	if err != nil {
		return nil, false, err
	}
	return &api.Submitted{Pipeline: *p}, false, nil
}

// wrong is the first error of a file and how many there are.
func wrong(file string, ps []api.Problem) string {
	n, text := 0, "no jobs"
	for _, p := range ps {
		if !p.Warning {
			if n == 0 {
				text = fmt.Sprintf("%s:%d:%d: %s", file, p.Line, p.Column, p.Text)
			}
			n++
		}
	}
	if n > 1 {
		text += fmt.Sprintf(" (and %d more)", n-1)
	}
	return text
}

// keyed finds a submission that was committed since the start, or is in this batch.
func (t *txn) keyed(key string) keyed {
	if k, ok := t.keys[key]; ok {
		return k
	}
	return t.w.keys[key]
}

// create makes the records of a pipeline.
func (t *txn) create(key, hash string, sub api.Submit, g *pipeline.Graph, problems []api.Problem) (string, error) {
	id, err := t.ulid()
	if err != nil {
		return "", err
	}
	t.number++
	p := &state.Pipeline{
		ID: id, Version: 1, Number: t.number, Project: sub.Project, Key: key, KeyHash: hash, Zone: zoneBranch,
		File: sub.File, Source: sub.Source, Problems: problems, Status: api.StatusPending, CreatedMS: t.ms(),
	}
	names := map[string]string{}
	for i := range g.Jobs {
		jid, err := t.ulid()
		if err != nil {
			return "", err
		}
		p.Jobs = append(p.Jobs, jid)
		names[g.Jobs[i].Spec.Name] = jid
		t.keep(t.jobs.set(jid, &state.Job{
			ID: jid, Version: 1, Pipeline: id, Index: i, Def: define(&g.Jobs[i]),
			Status: api.StatusPending, Code: api.WaitNeeds,
		}))
	}
	t.names[id] = names
	t.keep(t.pipelines.set(id, p))
	t.keys[key] = keyed{pipeline: id, hash: hash, at: t.now}
	if err := t.domain(p.Project, p.Zone); err != nil {
		return "", err
	}
	t.event(id, nil, fmt.Sprintf("pipeline %d of %s: %d jobs", p.Number, p.Project, len(p.Jobs)))
	t.look[id] = true
	return id, nil
}

// define keeps what the coordinator needs of a job.
func define(j *pipeline.Job) *state.Def {
	d := &state.Def{
		Spec: j.Spec, HasNeeds: j.HasNeeds, Waits: j.Waits, Parents: j.Parents, Tags: j.Tags,
		AllowFailure: j.AllowFailure.Any, AllowCodes: j.AllowFailure.Codes, When: j.When, Retry: j.Retry, Source: j.Source,
	}
	for _, n := range j.Needs {
		d.Needs = append(d.Needs, n.Job)
	}
	return d
}

// domain makes the domain's key if there is none.
func (t *txn) domain(project, zone string) error {
	if t.domainKey(project, zone) != nil {
		return nil
	}
	key := make([]byte, 32)
	if _, err := io.ReadFull(t.s.o.Rand, key); err != nil {
		return err
	}
	t.domains = append(t.domains, &state.Domain{Project: project, Zone: zone, Key: key})
	return nil
}

func (t *txn) ulid() (string, error) {
	id, err := ulid.New(ulid.Timestamp(t.now), t.s.o.Rand)
	return id.String(), err
}
