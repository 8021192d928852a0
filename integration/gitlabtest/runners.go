package gitlabtest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// RunnerDef is a runner's settings on the server.
type RunnerDef struct {
	Tags []string
	// TaggedOnly refuses jobs without tags.
	TaggedOnly bool
	// Protected takes jobs of protected refs alone.
	Protected bool
	// MaxTimeout bounds the jobs' timeouts, 0 not.
	MaxTimeout time.Duration
	// TokenExpires is when the token does, zero never.
	TokenExpires time.Time
	// Paused gives it nothing.
	Paused bool
}

// Runner is a runner as the server knows it: a token, and the managers that use it.
type Runner struct {
	ID  int64
	def RunnerDef
	g   *GitLab
	// under g.mu:
	token string
}

// AddRunner makes a runner.
func (g *GitLab) AddRunner(def RunnerDef) *Runner {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &Runner{ID: g.nextLocked(), def: def, g: g, token: "glrt-" + g.secretLocked()}
	g.runners[r.token] = r
	return r
}

// Token is what goes into config.toml.
func (r *Runner) Token() string {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return r.token
}

// Pause gives the runner nothing any more, or again.
func (r *Runner) Pause(on bool) {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	r.def.Paused = on
}

func (g *GitLab) secretLocked() string { return rand.Text()[:20] }

func newID() string { return rand.Text() }

// queueLocked is the value of a runner's queue (1.1): the same for all its managers.
func (r *Runner) queueLocked() string { return fmt.Sprintf("%x.%x", r.ID, r.g.queue) }

// runnerBody is what calls 1, 2, 3 and 5 carry.
type runnerBody struct {
	Token      string         `json:"token"`
	SystemID   string         `json:"system_id"`
	LastUpdate string         `json:"last_update"`
	Info       map[string]any `json:"info"`
	Session    map[string]any `json:"session"`
}

// runner reads a runner's request. The body must have the token, and the header, if
// there is one, the same.
func (g *GitLab) runner(w http.ResponseWriter, r *http.Request) (*Runner, *runnerBody) {
	b := new(runnerBody)
	if r.ContentLength != 0 {
		if err := json.NewDecoder(r.Body).Decode(b); err != nil {
			fail(w, http.StatusBadRequest, "400 Bad request")
			return nil, nil
		}
	}
	if b.Token == "" {
		fail(w, http.StatusBadRequest, "400 Bad request - token is missing")
		return nil, nil
	}
	if h := r.Header.Get("Runner-Token"); h != "" && h != b.Token {
		b.Token = "the header has another one"
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.runners[b.Token]
	if known == nil || !known.def.TokenExpires.IsZero() && g.o.Now().After(known.def.TokenExpires) {
		fail(w, http.StatusForbidden, "403 Forbidden")
		return nil, nil
	}
	return known, b
}

func (g *GitLab) serveVerify(w http.ResponseWriter, r *http.Request) {
	known, _ := g.runner(w, r)
	if known == nil {
		return
	}
	if g.o.PlainVerify {
		fmt.Fprint(w, "200")
		return
	}
	var expires any
	if !known.def.TokenExpires.IsZero() {
		expires = known.def.TokenExpires
	}
	reply(w, http.StatusOK, map[string]any{"id": known.ID, "token": known.Token(), "token_expires_at": expires})
}

func (g *GitLab) serveReset(w http.ResponseWriter, r *http.Request) {
	known, _ := g.runner(w, r)
	if known == nil {
		return
	}
	g.mu.Lock()
	delete(g.runners, known.token)
	known.token = "glrt-" + g.secretLocked()
	g.runners[known.token] = known
	known.def.TokenExpires = time.Time{}
	g.mu.Unlock()
	reply(w, http.StatusCreated, map[string]any{"token": known.Token(), "token_expires_at": nil})
}

func (g *GitLab) serveUnregister(w http.ResponseWriter, r *http.Request) {
	known, _ := g.runner(w, r)
	if known == nil {
		return
	}
	g.mu.Lock()
	if r.URL.Path == "/api/v4/runners" {
		delete(g.runners, known.token)
	}
	g.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (g *GitLab) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	fail(w, http.StatusNotImplemented, "501 Not Implemented")
}

// hasLocked reports whether a runner may take the job.
func (r *Runner) hasLocked(j *job) bool {
	switch {
	case r.def.Protected && !j.pipeline.def.Protected, len(j.def.Tags) == 0 && r.def.TaggedOnly:
		return false
	}
	for _, tag := range j.def.Tags {
		if !slices.Contains(r.def.Tags, tag) {
			return false
		}
	}
	return true
}

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b)
}

func fail(w http.ResponseWriter, status int, message string) {
	reply(w, status, map[string]string{"message": message})
}
