package gitlabtest

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"time"
)

// serveRequest is call 5.
func (g *GitLab) serveRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // all of it, or a client that goes away isn't noticed
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	known, b := g.runner(w, r)
	if known == nil {
		return
	}
	if g.hold(w, r, known, b.LastUpdate) {
		return
	}
	g.mu.Lock()
	g.advanceLocked()
	value := known.queueLocked()
	var payload map[string]any
	if !known.def.Paused {
		if j := g.pickLocked(known, b); j != nil {
			g.handOutLocked(j, known, b) // its runner is among its variables
			payload = j.payloadLocked(g)
		}
	}
	g.notifyLocked()
	g.mu.Unlock()
	if payload == nil {
		w.Header().Set("X-GitLab-Last-Update", value)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	reply(w, http.StatusCreated, payload)
}

// hold answers a request that knows the newest value of its queue (1.1): at once, or
// when the value changed or the time is over. It says whether it did.
func (g *GitLab) hold(w http.ResponseWriter, r *http.Request, known *Runner, last string) bool {
	timeout := time.After(g.o.LongPoll)
	for held := false; ; held = true {
		g.mu.Lock()
		g.advanceLocked()
		same, changed := last != "" && last == known.queueLocked() && !g.o.Breaks(QueueValue), g.changed
		g.mu.Unlock()
		switch {
		case !same && held: // the runner must ask again
			w.WriteHeader(http.StatusNoContent)
			return true
		case !same:
			return false
		}
		if g.o.LongPoll == 0 {
			w.Header().Set("X-GitLab-Last-Update", last)
			w.WriteHeader(http.StatusNoContent)
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			w.Header().Set("X-GitLab-Last-Update", last)
			w.WriteHeader(http.StatusNoContent)
			return true
		case <-r.Context().Done():
			return true
		}
	}
}

// pickLocked is the oldest pending job that the runner may have. Those that need what
// the runner lacks are dropped, as the server does.
func (g *GitLab) pickLocked(known *Runner, b *runnerBody) *job {
	var pending []*job
	for _, j := range g.jobs {
		free := j.status == Pending && j.ackUntil.IsZero() || g.o.Breaks(HandOutOnce) && j.status == Running && len(j.log.Assigned) == 1
		if free && known.hasLocked(j) {
			pending = append(pending, j)
		}
	}
	slices.SortFunc(pending, func(a, b *job) int {
		if c := a.queued.Compare(b.queued); c != 0 {
			return c
		}
		return int(a.id - b.id)
	})
	features, _ := b.Info["features"].(map[string]any)
	for _, j := range pending {
		lacks := slices.ContainsFunc(j.def.Requires, func(f string) bool { return features[f] != true })
		if !lacks || g.o.Breaks(FeaturesDecide) {
			return j
		}
		j.endLocked(g, Failed, "runner_unsupported", 0)
	}
	return nil
}

// handOutLocked notes who got the job. With two-phase commit it stays pending until
// that manager says that it runs (1.2).
func (g *GitLab) handOutLocked(j *job, known *Runner, b *runnerBody) {
	now := g.o.Now()
	features, _ := b.Info["features"].(map[string]any)
	j.runner, j.features = known, features
	j.cancelGracefully = features["cancel_gracefully"] == true
	j.expires = now.Add(j.timeout(known) + g.o.TokenLife)
	j.log.Assigned = append(j.log.Assigned, b.SystemID)
	if g.o.TwoPhase && features["two_phase_job_commit"] == true {
		j.ackUntil, j.ackManager = now.Add(g.o.AckExpiry), b.SystemID
		return
	}
	j.status, j.manager, j.started = Running, b.SystemID, now
}

func (j *job) timeout(r *Runner) time.Duration {
	d := j.def.Timeout
	if d == 0 {
		d = time.Hour
	}
	if m := r.def.MaxTimeout; m > 0 {
		d = min(d, m)
	}
	return d
}
