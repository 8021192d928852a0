package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// pause is how often it looks into directories.
const pause = 20 * time.Millisecond

// spool is the plugin.
type spool struct {
	log   hclog.Logger
	ready chan struct{} // closed when the jobs of an earlier process are known

	agent plugin.Agent
	dir   string // records, scripts, exit codes
	spool string // the system: new and done

	mu   sync.Mutex
	jobs map[snapshot.ID]*job
	busy map[string]bool // names of jobs that a slot has
}

func newSpool(log hclog.Logger) *spool {
	return &spool{log: log, ready: make(chan struct{}), jobs: map[snapshot.ID]*job{}, busy: map[string]bool{}}
}

// Describe implements plugin.Plugin.
func (s *spool) Describe(context.Context) (plugin.Description, error) {
	return plugin.Description{Name: "spool", Version: "1.0.0", Contract: plugin.Contract}, nil
}

// Serve implements plugin.Plugin.
func (s *spool) Serve(ctx context.Context, set plugin.Settings, a plugin.Agent) error {
	var config struct {
		Spool string `json:"spool"`
	}
	if err := json.Unmarshal(set.Config, &config); err != nil || !filepath.IsAbs(config.Spool) {
		return fmt.Errorf(`configuration: want {"spool": "/a/directory"}`)
	}
	s.agent, s.dir, s.spool = a, set.Dir, config.Spool
	for _, d := range []string{"new", "done"} {
		if err := os.MkdirAll(filepath.Join(s.spool, d), 0o755); err != nil {
			return err
		}
	}
	mine, err := s.recover(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what an earlier process left: %w", err)
	}
	close(s.ready)
	var wg sync.WaitGroup
	for _, slot := range set.Slots {
		wg.Go(func() { s.slot(ctx, slot, mine[slot]) })
	}
	wg.Wait()
	return nil
}

// recover finds the jobs of an earlier process, by slot. Records say how far it came; the agent
// says which attempts have not ended.
func (s *spool) recover(ctx context.Context) (map[int][]*job, error) {
	held, err := s.agent.Held(ctx)
	if err != nil {
		return nil, err
	}
	records, err := loadRecords(s.dir)
	if err != nil {
		return nil, err
	}
	still := map[snapshot.ID]bool{}
	mine := map[int][]*job{}
	for _, h := range held {
		still[h.Attempt] = true
		if _, known := records[h.Attempt]; known {
			continue
		}
		// It was granted, and the process died before it wrote that down.
		d := plugin.DiscardRequest{Attempt: h.Attempt, Outcome: plugin.OutcomeUndelivered, Reason: "never begun"}
		if err := s.agent.Discard(ctx, d); err != nil {
			return nil, err
		}
	}
	for id, r := range records {
		j := &job{s: s, record: r, stop: make(chan struct{})}
		j.gone = !still[id]
		s.jobs[id], s.busy[r.Name] = j, true
		mine[r.Slot] = append(mine[r.Slot], j)
	}
	return mine, nil
}

// slot runs one job after the other, first those of an earlier process.
func (s *spool) slot(ctx context.Context, slot int, first []*job) {
	for _, j := range first {
		s.finish(ctx, j)
	}
	for sleep(ctx, pause) {
		name, payload := s.pick()
		if name == "" {
			continue
		}
		g, err := s.agent.Claim(ctx, plugin.Offer{Slot: slot, Job: payload})
		if err != nil {
			s.log.Warn("no workspace yet", "job", name, "error", err)
		}
		if g == nil {
			s.release(name)
			continue
		}
		j := &job{s: s, stop: make(chan struct{}), record: record{
			Attempt: g.Attempt, Slot: slot, Name: name, Phase: granted,
		}}
		if err := j.save(); err != nil {
			s.log.Error("a job can't be begun", "job", name, "error", err)
			d := plugin.DiscardRequest{Attempt: g.Attempt, Outcome: plugin.OutcomeUndelivered, Reason: err.Error()}
			_ = retry(ctx, func() error { return s.agent.Discard(ctx, d) })
			s.release(name)
			continue
		}
		s.mu.Lock()
		s.jobs[g.Attempt] = j
		s.mu.Unlock()
		s.finish(ctx, j)
	}
}

// finish brings a job to its end, or as far as it comes until ctx ends.
func (s *spool) finish(ctx context.Context, j *job) {
	if err := j.run(ctx); err != nil {
		if ctx.Err() == nil {
			s.log.Error("job", "job", j.record.Name, "error", err)
		}
		return // its record says how to go on
	}
	s.mu.Lock()
	delete(s.jobs, j.record.Attempt)
	s.mu.Unlock()
	s.release(j.record.Name)
}

// pick takes a job that no slot has.
func (s *spool) pick() (string, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, _ := filepath.Glob(filepath.Join(s.spool, "new", "*.json"))
	for _, f := range files {
		name := filepath.Base(f[:len(f)-len(".json")])
		if s.busy[name] {
			continue
		}
		if b, err := os.ReadFile(f); err == nil {
			s.busy[name] = true
			return name, b
		}
	}
	return "", nil
}

func (s *spool) release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, name)
}

// Lost implements plugin.Plugin: the job stops, and nothing of it gets to the spool.
func (s *spool) Lost(ctx context.Context, id snapshot.ID, why string) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	j := s.jobs[id]
	s.mu.Unlock()
	if j == nil {
		return nil // it has ended
	}
	return j.lose(why)
}

// sleep reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// retry repeats a call of the agent as long as it is not available.
func retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, plugin.ErrUnavailable) || !sleep(ctx, 10*pause) {
			return err
		}
	}
}
