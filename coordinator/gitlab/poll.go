package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
)

const (
	// maxConflicts is how often a request that met a conflict is sent again at once:
	// it means that there may be more jobs.
	maxConflicts = 10
	// maxChanges is how often a request is sent again at once because the queue
	// changed: a busy one changes all the time.
	maxChanges = 3
	// maxHeld bounds a request altogether, its body included.
	maxHeld = 10 * time.Minute
	// newOffer is the least time between two requests when a slot was just offered: a
	// runner that has ended a job asks at once, too, and the next stage may be ready.
	newOffer = 200 * time.Millisecond
	// storeFor is how long it is tried to keep a job that came while the coordinator
	// stops; then it is given up to GitLab as failed.
	storeFor = 5 * time.Second
)

// asker asks for jobs with one token. One request at a time is under way.
type asker struct {
	s *Service
	c *client

	// The loop's own.
	busy      bool
	asked     time.Time
	notBefore time.Time
	free      int // slots when it was last looked at

	// Of the request under way.
	lastUpdate string
	conflicts  int
	failures   int
	changes    int // answers in a row that said that the queue had changed
}

// ask makes one request and keeps what it brings. It gives the time until the next.
func (a *asker) ask(ctx context.Context, w Want) time.Duration {
	last := a.lastUpdate
	if w.Tokens > w.Free {
		// Several tokens share a slot: none may be held while the others wait.
		last = ""
	}
	body, err := requestBody(w.Runner, w.Token, last)
	if err != nil {
		a.s.o.Log.Error("a runner describes itself in a way that GitLab can't read", "pool", w.Name, "error", err)
		return time.Minute
	}
	began := a.s.o.Now()
	// Never cut off by us: the answer may be a job.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxHeld)
	defer cancel()
	p, err := a.c.request(whole, w.Token, body)
	if p.lastUpdate != "" {
		a.lastUpdate = p.lastUpdate
	}
	if p.code == 201 {
		a.conflicts, a.failures, a.changes = 0, 0, 0
		a.take(ctx, w, p, err)
		return 0
	}
	return a.rest(w, p, err, a.s.o.Now().Sub(began), last != "" && last != p.lastUpdate)
}

// rest is how long to wait after an answer that brought nothing. changed says that the
// queue is not as it was before: a server that holds requests answers them then, and
// the job is given to the one that asks next.
func (a *asker) rest(w Want, p poll, err error, took time.Duration, changed bool) time.Duration {
	changes := a.changes
	a.changes = 0
	log := a.s.o.Log.With("pool", w.Name, "url", w.URL)
	switch {
	case err == nil && p.code == 204:
		a.conflicts, a.failures = 0, 0
		if changed && changes < maxChanges {
			a.changes = changes + 1
			return 0
		}
		return max(0, a.s.o.Interval-took)
	case err == nil && p.code == 409:
		if a.conflicts++; a.conflicts < maxConflicts {
			return 0
		}
		a.conflicts = 0
		return a.s.o.Interval
	}
	a.conflicts = 0
	a.failures++
	rest := max(a.s.backoff(a.failures), p.after)
	switch {
	case err != nil:
		log.Warn("GitLab can't be reached", "error", err, "again", rest)
	case p.code == 401 || p.code == 403 || p.code == 422:
		rest = max(rest, min(time.Minute, 20*a.s.o.Retry))
		log.Error("GitLab refuses the runner's token", "status", p.code, "again", rest)
	default:
		log.Warn("GitLab did not answer a request for a job", "status", p.code, "again", rest)
	}
	return rest
}

// take keeps a job. GitLab counts it as given out, so it is tried until it is kept;
// what can't be kept at all is failed there at once.
func (a *asker) take(ctx context.Context, w Want, p poll, err error) {
	fail.Point("gitlab.received")
	instance, ierr := Instance(w.URL)
	j, perr := Parse(instance, p.body)
	if err = errors.Join(err, ierr, perr); err != nil {
		a.s.o.Log.Error("a job from GitLab can't be read", "pool", w.Name, "job", j.ID, "error", err)
		a.refuse(ctx, j)
		return
	}
	last := time.Time{}
	for {
		err := a.s.o.Board.Take(context.WithoutCancel(ctx), w.Pool, j, p.body)
		if err == nil {
			a.s.o.Log.Info("job received", "pool", w.Name, "job", j.ID, "project", j.Path, "name", j.JobName)
			return
		}
		a.s.o.Log.Error("a job from GitLab can't be kept now", "pool", w.Name, "job", j.ID, "error", err)
		if ctx.Err() != nil {
			if last.IsZero() {
				last = a.s.o.Now().Add(storeFor)
			}
			if !a.s.o.Now().Before(last) {
				a.refuse(ctx, j)
				return
			}
		}
		pause.For(context.WithoutCancel(ctx), a.s.o.Retry) //nolint:errcheck // nothing ends it
	}
}

// refuse tells GitLab that a job that came can't be run.
func (a *asker) refuse(ctx context.Context, j *Job) {
	if j.ID <= 0 || j.Token == "" {
		return
	}
	for n := 1; n <= 5; n++ {
		st, err := a.c.end(context.WithoutCancel(ctx), j.ID, j.Token, systemFailure)
		if err == nil && st.code < 500 && st.code != 429 {
			return
		}
		pause.For(context.WithoutCancel(ctx), max(st.after, a.s.backoff(n))) //nolint:errcheck // same
	}
}

// requestBody is what the runner would send, with the token of the pool. The job is
// acknowledged in two steps where the server can do that: it stays pending until the
// host has it. A terminal into the job leads to the runner, which the job may not reach.
func requestBody(runner json.RawMessage, token Secret, lastUpdate string) ([]byte, error) {
	body := map[string]json.RawMessage{}
	if len(runner) > 0 {
		if err := json.Unmarshal(runner, &body); err != nil {
			return nil, fmt.Errorf("runner: %w", err)
		}
	}
	if body == nil { // it was null
		body = map[string]json.RawMessage{}
	}
	info, err := object(body["info"])
	if err != nil {
		return nil, err
	}
	features, err := object(info["features"])
	if err != nil {
		return nil, err
	}
	features["two_phase_job_commit"] = json.RawMessage("true")
	delete(features, "session")
	delete(body, "session")
	delete(body, "last_update")
	for _, set := range []struct {
		in   map[string]json.RawMessage
		key  string
		v    any
		omit bool
	}{
		{info, "features", features, false},
		{body, "info", info, false},
		{body, "token", string(token), false},
		{body, "last_update", lastUpdate, lastUpdate == ""},
	} {
		if set.omit {
			continue
		}
		b, err := json.Marshal(set.v)
		if err != nil {
			return nil, err
		}
		set.in[set.key] = b
	}
	return json.Marshal(body)
}

// object reads a JSON object; nothing is an empty one.
func object(raw json.RawMessage) (map[string]json.RawMessage, error) {
	m := map[string]json.RawMessage{}
	if len(raw) == 0 {
		return m, nil
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("runner: %w", err)
	}
	if m == nil {
		m = map[string]json.RawMessage{}
	}
	return m, nil
}
