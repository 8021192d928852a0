package gitlabtest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Pipeline is a run of jobs.
type Pipeline struct {
	ID, IID int64
	project *Project
	def     PipelineDef
	sha     string
	jobs    []*job
}

// Run starts a pipeline. A definition with a slip ends t.
func (p *Project) Run(t testing.TB, def PipelineDef) *Pipeline {
	t.Helper()
	pl, err := p.run(def)
	if err != nil {
		t.Fatal(err)
	}
	return pl
}

func (p *Project) run(def PipelineDef) (*Pipeline, error) {
	if def.Stages == nil {
		def.Stages = []string{"build", "test", "deploy"}
	}
	if def.Ref == "" {
		def.Ref = "main"
	}
	if def.SHA == "" {
		sha, err := p.Head(def.Ref)
		if err != nil {
			return nil, err
		}
		def.SHA = sha
	}
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	p.pipelines++
	pl := &Pipeline{ID: g.nextLocked(), IID: p.pipelines, project: p, def: def, sha: def.SHA}
	if err := p.git("update-ref", fmt.Sprintf("refs/pipelines/%d", pl.ID), def.SHA); err != nil {
		return nil, err
	}
	for _, d := range def.Jobs {
		if d.Stage == "" {
			d.Stage = "test"
		}
		if !slices.Contains(def.Stages, d.Stage) {
			return nil, fmt.Errorf("job %s: no stage %q", d.Name, d.Stage)
		}
		for i := range max(1, d.Parallel) {
			j := &job{name: d.Name, def: d, pipeline: pl}
			if d.Parallel > 0 {
				j.name, j.node = fmt.Sprintf("%s %d/%d", d.Name, i+1, d.Parallel), [2]int{i + 1, d.Parallel}
			}
			pl.addLocked(j)
		}
	}
	for _, j := range pl.jobs {
		for _, n := range j.def.Needs {
			if len(pl.namedLocked(n.Job)) == 0 && !n.Optional {
				return nil, fmt.Errorf("job %s needs %s, which is not there", j.name, n.Job)
			}
		}
	}
	g.pipelines[pl.ID] = pl
	g.advanceLocked()
	g.notifyLocked()
	return pl, nil
}

func (pl *Pipeline) addLocked(j *job) {
	g := pl.project.g
	j.id, j.status, j.flush = g.nextLocked(), Created, g.o.Flush
	j.token = fmt.Sprintf("glcbt-%d-%s", j.id, g.secretLocked())
	g.jobs[j.id] = j
	pl.jobs = append(pl.jobs, j)
}

// namedLocked are the newest attempts at the jobs of a definition or of a name.
func (pl *Pipeline) namedLocked(name string) []*job {
	var found []*job
	for _, j := range pl.jobs {
		if !j.retried && (j.name == name || j.def.Name == name) {
			found = append(found, j)
		}
	}
	return found
}

// Job is the newest attempt at the job of that name; it must exist.
func (pl *Pipeline) Job(name string) Job {
	g := pl.project.g
	g.mu.Lock()
	defer g.mu.Unlock()
	return pl.namedLocked(name)[0].copyLocked(g)
}

// Jobs are all attempts at the pipeline's jobs.
func (pl *Pipeline) Jobs() []Job {
	g := pl.project.g
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Job
	for _, j := range pl.jobs {
		all = append(all, j.copyLocked(g))
	}
	return all
}

// Status is the pipeline's.
func (pl *Pipeline) Status() Status {
	pl.project.g.mu.Lock()
	defer pl.project.g.mu.Unlock()
	return pl.statusLocked()
}

// Wait waits until nothing of the pipeline waits or runs.
func (pl *Pipeline) Wait(ctx context.Context) (Status, error) {
	err := pl.project.g.Wait(ctx, func() bool {
		s := pl.statusLocked()
		return s.Ended() || s == ManualJob
	})
	return pl.Status(), err
}

// MustWait is Wait for d at most, and ends t when the pipeline is not as wanted then.
func (pl *Pipeline) MustWait(t testing.TB, want Status, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	got, err := pl.Wait(ctx)
	if err == nil && got == want {
		return
	}
	for _, j := range pl.Jobs() {
		t.Logf("job %d %s: %s %s\n%s", j.ID, j.Name, j.Status, j.FailureReason, j.Trace)
	}
	t.Fatalf("pipeline %d is %s instead of %s: %v", pl.ID, got, want, err)
}

// Cancel cancels all jobs of the pipeline.
func (pl *Pipeline) Cancel() {
	for _, j := range pl.Jobs() {
		j.Cancel()
	}
}

// Retry makes a new attempt at a job that has ended, as a person does. What stood
// after it and was skipped goes on.
func (pl *Pipeline) Retry(name string) Job {
	g := pl.project.g
	g.mu.Lock()
	defer g.mu.Unlock()
	n := pl.retryLocked(pl.namedLocked(name)[0])
	n.tries = 0
	for _, j := range pl.jobs {
		if j.status == Skipped {
			j.status = Created
		}
	}
	g.advanceLocked()
	g.notifyLocked()
	return n.copyLocked(g)
}

func (pl *Pipeline) retryLocked(old *job) *job {
	old.retried = true
	n := &job{name: old.name, node: old.node, def: old.def, pipeline: pl, tries: old.tries + 1}
	pl.addLocked(n)
	n.enqueueLocked(pl.project.g)
	return n
}
