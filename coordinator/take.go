package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/gitlablog"
	"github.com/roost-ci/roost/snapshot"
)

// outsideKey names a job of another system.
func outsideKey(instance string, id int64) string { return instance + "#" + strconv.FormatInt(id, 10) }

// pipelineKey names a pipeline of another system. The zone is part of it: what is
// trusted more and what is trusted less never share a line. No submission can have such
// a key: it begins with what is not printable.
func pipelineKey(j *gitlab.Job) string {
	return fmt.Sprintf("\x1f%s:%s/%d/%d#%s", api.SystemGitLab, j.Instance, j.ProjectID, j.PipelineID, j.Zone)
}

// projectOf names the project of a job. The id makes it safe against a path that is
// used again.
func projectOf(j *gitlab.Job) string {
	id := "#" + strconv.FormatInt(j.ProjectID, 10)
	name := j.Instance
	if j.Path != "" {
		name += "/" + j.Path
	}
	if room := maxProject - len(id); len(name) > room {
		name = strings.ToValidUTF8(name[:room], "")
	}
	return name + id
}

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

// take makes the records of a job. host and slot are set if a runner has it already.
func (t *txn) take(from gitlab.Pool, g *gitlab.Job, payload []byte, host string, slot int) error {
	if old := t.outsider(g.Instance, g.ID); old != nil && !old.Status.Ended() {
		a := t.attempts.get(old.AttemptID)
		if a != nil && a.Stage != state.AttemptAssigned && a.Stage != state.AttemptEnded {
			t.s.log.Warn("GitLab gave a job again that runs already", "job", g.ID, "host", a.Host)
			return nil
		}
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
	for k, v := range names {
		next[k] = v
	}
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

// openPipeline finds the pipeline of a job, or makes it.
func (t *txn) openPipeline(g *gitlab.Job) (*state.Pipeline, error) {
	key := pipelineKey(g)
	for _, p := range t.pipelines.dirty {
		if p.Key == key {
			return t.openAgain(p), nil
		}
	}
	if p := t.pipelines.get(t.w.byKey[key]); p != nil {
		return t.openAgain(p), nil
	}
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

// defineOutside makes the definition of a job of what it says and what its pool says
// for it.
func (t *txn) defineOutside(from gitlab.Pool, g *gitlab.Job) *state.Def {
	pool := t.poolOf(from.Name)
	set := g.Settings
	mode := first(set.Mode, pool.Mode, pipeline.ModeOptional)
	e := &state.External{
		System: api.SystemGitLab, Pool: from.Name, URL: from.URL, Instance: g.Instance, ID: g.ID, Pipeline: g.PipelineID,
		Name: g.Name, Off: g.Off, Durability: first(set.Durability, pool.Durability, gitlab.DurabilityLocal),
		FetchBudgetMS: pool.FetchBudgetMS, Path: g.Path, ReceivedMS: t.ms(),
		Plain: !gitlablog.HasTimes(from.Runner, g.TimesFlag),
	}
	e.Web = webPage(from.URL, g)
	if e.Off == "" && platformOf(from.Runner) == "windows" {
		e.Off = "its runner is on Windows"
	}
	commit := first(set.Commit, pipeline.CommitOnSuccess)
	if len(set.NeverUpload) > 0 {
		commit = pipeline.CommitNever // whatever is kept may be uploaded
	}
	if mode == gitlab.ModeOff {
		mode, e.Off = pipeline.ModeOptional, "it says so"
		if set.Mode != gitlab.ModeOff {
			e.Off = "its host says so"
		}
	}
	return &state.Def{
		Spec: api.JobSpec{
			Name: g.JobName, Stage: g.Stage, TimeoutMS: g.Timeout.Milliseconds(),
			Workspace: api.WorkspaceSpec{
				Disabled: e.Off != "", Commit: commit, Mode: mode,
				OnConflict: first(set.OnConflict, pipeline.ConflictError), Atomic: set.Atomic, Caches: set.Caches,
			},
		},
		When: pipeline.OnSuccess, External: e,
	}
}

// webPage is the address of a job's page, "" if its project's path is not known.
func webPage(base string, g *gitlab.Job) string {
	u, err := url.Parse(base)
	if err != nil || g.Path == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return ""
	}
	return u.JoinPath(escapePath(g.Path), "-", "jobs", strconv.FormatInt(g.ID, 10)).String()
}

// escapePath makes each element of a path fit for an address.
func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

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

// poolOf finds what a host of a pool says for the jobs of it.
func (t *txn) poolOf(key string) api.Pool {
	for _, name := range sortedKeys(t.w.fleet) {
		if p := t.w.fleet[name]; p.pool != nil && p.poolKey == key {
			return *p.pool
		}
	}
	return api.Pool{}
}

func platformOf(runner json.RawMessage) string {
	var v struct {
		Info struct {
			Platform string `json:"platform"`
		} `json:"info"`
	}
	if json.Unmarshal(runner, &v) != nil {
		return ""
	}
	return v.Info.Platform
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
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
	p, jobs, err := s.state.Pipeline(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	var attempts []*state.Attempt
	var ids []snapshot.ID
	for _, j := range jobs {
		_, as, err := s.state.Job(ctx, j.ID)
		if err != nil {
			return nil, err
		}
		attempts = append(attempts, as...)
		ids = append(ids, j.Output)
		for _, in := range j.Inputs {
			ids = append(ids, in.Snapshot)
		}
	}
	snapshots, err := s.ancestry(ctx, ids)
	if err != nil {
		return nil, err
	}
	return func(t *txn) error {
		if t.pipelines.get(p.ID) != nil || t.w.byKey[key] != "" {
			return nil
		}
		t.w.putPipeline(p)
		t.w.byKey[key] = p.ID
		for _, j := range jobs {
			t.w.putJob(j)
		}
		for _, a := range attempts {
			t.w.putAttempt(a)
		}
		for _, x := range snapshots {
			if t.snapshots.get(x.ID) == nil {
				t.w.snapshots[x.ID] = x
			}
		}
		return nil
	}, nil
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
