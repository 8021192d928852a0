package coordinator

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

// held makes a job that a runner has already: nobody else is given it.
func (l *lab) held(id int64, name string, edit ...func(map[string]any)) *labJob {
	j := l.add(id, name, "one", edit...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue, j.state = nil, "running"
	return j
}

// brings polls with a job that the runner of a slot has, as edit made it.
func (h *host) brings(slot int, j *labJob, edit func(map[string]any)) (*api.Claims, error) {
	h.b.t.Helper()
	var p map[string]any
	b, err := json.Marshal(j.payload)
	require.NoError(h.b.t, err)
	require.NoError(h.b.t, json.Unmarshal(b, &p))
	if edit != nil {
		edit(p)
	}
	b, err = json.Marshal(p)
	require.NoError(h.b.t, err)
	r := h.offers(10 * time.Second)
	r.FreeSlots, r.Offers = 1, []api.SlotOffer{{Slot: slot, Job: b}}
	return h.c.Claims(h.b.t.Context(), h.id, r)
}

func infoOf(p map[string]any) map[string]any { return p["job_info"].(map[string]any) }
func gitOf(p map[string]any) map[string]any  { return p["git_info"].(map[string]any) }

// A payload that an agent brings is believed as far as GitLab says the same: a stolen agent's
// token opens nobody's workspace.
func TestGitLabForgedOffers(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	thief := b.newLabHost(l, "host-t", 1)
	own := l.held(31, "build", func(p map[string]any) { gitOf(p)["ref"] = "feature" })
	other := l.held(32, "build")
	for name, forge := range map[string]func(map[string]any){
		"project":       func(p map[string]any) { infoOf(p)["project_id"] = 8 },
		"path":          func(p map[string]any) { infoOf(p)["project_full_path"] = "group/secret" },
		"pipeline":      func(p map[string]any) { infoOf(p)["pipeline_id"] = 99 },
		"protected ref": func(p map[string]any) { gitOf(p)["ref"], gitOf(p)["protected"] = "main", true },
		"commit":        func(p map[string]any) { gitOf(p)["sha"] = "ffffffffffffffffffffffffffffffffffffffff" },
		"name":          func(p map[string]any) { infoOf(p)["name"] = "deploy" },
		"stage":         func(p map[string]any) { infoOf(p)["stage"] = "two" },
		"another job":   func(p map[string]any) { p["id"] = other.id },
		"no token":      func(p map[string]any) { p["token"] = "made-up" },
		"a runner's":    func(p map[string]any) { p["token"] = runnerToken },
	} {
		cs, err := thief.brings(1, own, forge)
		require.NoError(t, err, name)
		require.Empty(t, cs.Claims, name)
		require.Len(t, cs.Refused, 1, name)
		require.Contains(t, cs.Refused[0].Reason, "GitLab does not confirm", name)
		require.False(t, cs.Refused[0].Later, name)
	}
	ps, err := b.user.Pipelines(t.Context(), "", 10)
	require.NoError(t, err)
	require.Empty(t, ps, "nothing is left of them")

	l.cancel(own.id, "success") // its token ended with it
	cs, err := thief.brings(1, own, nil)
	require.NoError(t, err)
	require.Contains(t, cs.Refused[0].Reason, "401")
}

// That a host had a job says nothing of the next payload of its number.
func TestGitLabForgedAgain(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-t", 1)
	j := l.held(31, "build")
	cs, err := h.brings(1, j, nil)
	require.NoError(t, err)
	require.Len(t, cs.Claims, 1)
	h.begin(cs.Claims[0])
	h.succeed(cs.Claims[0])
	cs, err = h.brings(1, j, func(p map[string]any) { infoOf(p)["project_id"] = 8 })
	require.NoError(t, err)
	require.Empty(t, cs.Claims)
	require.Contains(t, cs.Refused[0].Reason, "another project")
}

// Without an answer there is no workspace now.
func TestGitLabOfferedGitLabDown(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	j := l.held(31, "build")
	down := true
	l.fault = func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		if r.URL.Path == "/api/v4/job" && down {
			w.WriteHeader(503)
			return true
		}
		return false
	}
	cs, err := h.brings(1, j, nil)
	require.NoError(t, err)
	require.Empty(t, cs.Claims)
	require.True(t, cs.Refused[0].Later)
	l.mu.Lock()
	down = false
	l.mu.Unlock()
	cs, err = h.brings(1, j, nil)
	require.NoError(t, err)
	require.Len(t, cs.Claims, 1)
}

// A server that the coordinator was not told of confirms nothing: it may be anybody's.
func TestGitLabOfferedElsewhere(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) { o.GitLabURLs = []string{"https://gitlab.example.org"} })
	h := b.newLabHost(l, "host-a", 1, func(r *api.Register) { r.Pool.Tokens = nil })
	cs, err := h.brings(1, l.held(31, "build"), nil)
	require.NoError(t, err)
	require.Contains(t, cs.Refused[0].Reason, "gitlab_urls")
}

// That a ref is protected is nothing that an agent's payload can say: it neither reads what
// protected jobs left nor leaves anything for them.
func TestGitLabOfferedProtected(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 2)
	protect := func(p map[string]any) { gitOf(p)["protected"] = true }
	pipeline := func(id int) func(map[string]any) { return func(p map[string]any) { infoOf(p)["pipeline_id"] = id } }
	l.add(11, "build", "one", protect)
	c := h.takes()
	h.begin(c)
	secret := h.succeed(c)

	feature := l.held(12, "build", pipeline(101), func(p map[string]any) { gitOf(p)["ref"] = "feature" })
	cs, err := h.brings(2, feature, protect)
	require.NoError(t, err)
	require.Len(t, cs.Claims, 1)
	mine := cs.Claims[0]
	require.Empty(t, mine.Inputs, "it sees nothing of the protected jobs'")
	require.NotEqual(t, c.DomainKey, mine.DomainKey)
	h.begin(mine)
	left := h.succeed(mine)

	// Later jobs of the same ref find it, whatever they say of themselves; protected ones don't.
	cs, err = h.brings(2, l.held(13, "build", pipeline(102), func(p map[string]any) { gitOf(p)["ref"] = "feature" }), nil)
	require.NoError(t, err)
	require.Len(t, cs.Claims, 1)
	h.begin(cs.Claims[0])
	h.succeed(cs.Claims[0])
	l.add(14, "build", "one", protect, pipeline(103))
	c = h.takes()
	for _, in := range c.Inputs {
		require.NotEqual(t, left, in.Snapshot)
	}
	h.begin(c)
	h.succeed(c)

	// A pipeline of which GitLab gave a job itself is what it is.
	cs, err = h.brings(2, l.held(15, "test", func(p map[string]any) {
		infoOf(p)["stage"], p["dependencies"] = "two", []any{map[string]any{"id": 11}}
	}), protect)
	require.NoError(t, err)
	require.Len(t, cs.Claims, 1)
	require.Equal(t, secret, cs.Claims[0].Inputs[0].Snapshot)
}
