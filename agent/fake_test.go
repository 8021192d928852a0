package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// fake is a coordinator that keeps every promise of the interface towards agents,
// in memory, and does what a test tells it. Placement is the test's: give.
type fake struct {
	t     *testing.T
	srv   *httptest.Server
	blobs http.Handler
	key   []byte

	mu       sync.Mutex
	changed  chan struct{}
	lease    time.Duration
	agents   map[string]*fakeAgent // by name
	attempts map[snapshot.ID]*fakeAttempt
	layers   map[snapshot.ID]api.LayerRef
	nodes    map[snapshot.ID]api.Node
	urgent   []snapshot.ID
	offers   []api.SlotOffer // of the last request for work
	refuse   func(api.SlotOffer) *api.Refusal
	calls    []string
	// down answers with 503 whatever it returns true for.
	down func(method, path string) bool
}

type fakeAgent struct {
	id       snapshot.ID
	reg      api.Register
	beats    int
	holdings map[snapshot.ID]bool
	of       map[snapshot.ID][]api.Part // as heartbeats said
	evicted  [2]int64                   // layers and bytes
	left     bool
}

type fakeAttempt struct {
	claim          api.Claim
	host           string
	accepted       bool
	delivered      time.Time
	start          *api.Start
	finish         *api.Finish
	log            []byte
	cancel, fenced bool
}

func newFake(t *testing.T) *fake {
	dir, err := blob.OpenDir(filepath.Join(t.TempDir(), "blobs"), blob.DirOptions{})
	require.NoError(t, err)
	f := &fake{
		t: t, blobs: http.StripPrefix("/v1/blobs", blob.Handler(dir, blob.HandlerOptions{})), key: make([]byte, 32), lease: 20 * time.Second,
		changed: make(chan struct{}), agents: map[string]*fakeAgent{}, attempts: map[snapshot.ID]*fakeAttempt{},
		layers: map[snapshot.ID]api.LayerRef{}, nodes: map[snapshot.ID]api.Node{},
	}
	rand.Read(f.key) //nolint:errcheck // it can't fail
	f.srv = httptest.NewServer(f)
	t.Cleanup(f.srv.Close)
	return f
}

func newID(t testing.TB) snapshot.ID {
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	return id
}

func (f *fake) client() *api.Client {
	c, err := api.NewClient(f.srv.URL, "a-token", nil)
	require.NoError(f.t, err)
	return c
}

// give places a job. Its claim's ids, token and layers are filled in.
func (f *fake) give(host string, c api.Claim) *fakeAttempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.Attempt, c.Epoch, c.Number = newID(f.t), max(c.Epoch, 1), 1
	c.AcceptMS, c.LeaseMS, c.DomainKey, c.Token = 10_000, f.lease.Milliseconds(), f.key, "attempt-token"
	c.Pipeline, c.PipelineNumber = "01PIPELINE", 7
	if c.Project == "" {
		c.Project = "example.org/group/project"
	}
	if c.Origin == "" {
		c.Origin = api.OriginNone
		if len(c.Inputs) > 0 {
			c.Origin = api.OriginParent
		}
	}
	for i, in := range c.Inputs {
		c.Inputs[i].Manifest = f.layers[in.Snapshot].Manifest
	}
	for _, n := range f.nodes {
		c.Lineage = append(c.Lineage, n)
	}
	for _, l := range f.layers {
		if l.Durable {
			c.Layers = append(c.Layers, l)
		}
	}
	a := &fakeAttempt{claim: c, host: host}
	f.attempts[c.Attempt] = a
	f.announce()
	return a
}

func (f *fake) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// wait waits until cond, called under the lock, holds.
func (f *fake) wait(what string, cond func() bool) {
	f.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		f.mu.Lock()
		ok, ch := cond(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ch:
		case <-deadline:
			f.t.Fatalf("%s: not within 30 s; calls: %s", what, strings.Join(f.calls[max(0, len(f.calls)-10):], "\n"))
		}
	}
}

// finished waits for the end of an attempt.
func (f *fake) finished(a *fakeAttempt) api.Finish {
	f.t.Helper()
	f.wait("the end of "+a.claim.Job.Name, func() bool { return a.finish != nil })
	return *a.finish
}

func (f *fake) durable(id snapshot.ID) api.LayerRef {
	f.t.Helper()
	f.wait("upload of "+string(id), func() bool { return f.layers[id].Durable })
	return f.layers[id]
}

func (f *fake) logOf(a *fakeAttempt) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(a.log)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	down := f.down
	f.calls = append(f.calls, r.Method+" "+r.URL.Path)
	f.mu.Unlock()
	if down != nil && down(r.Method, r.URL.Path) {
		answer(w, 503, api.Error{Code: api.CodeInternal, Text: "down"})
		return
	}
	if strings.HasPrefix(r.URL.Path, "/v1/blobs/") {
		f.blobs.ServeHTTP(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer a-token" {
		answer(w, 401, api.Error{Code: api.CodeUnauthorized, Text: "no"})
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p := strings.TrimPrefix(r.URL.Path, "/v1/")
	switch {
	case p == "agents:register":
		f.register(w, body)
	case strings.HasSuffix(p, ":heartbeat"):
		f.heartbeat(w, strings.TrimSuffix(strings.TrimPrefix(p, "agents/"), ":heartbeat"), body)
	case strings.HasSuffix(p, "/claims"):
		f.claims(w, r, strings.TrimSuffix(strings.TrimPrefix(p, "agents/"), "/claims"), body)
	case strings.HasSuffix(p, ":leave"):
		f.edit(func() {
			for _, a := range f.agents {
				if string(a.id) == strings.TrimSuffix(strings.TrimPrefix(p, "agents/"), ":leave") {
					a.left = true
				}
			}
		})
		answer(w, 200, struct{}{})
	case strings.HasPrefix(p, "attempts/"):
		f.attempt(w, r, strings.TrimPrefix(p, "attempts/"), body)
	case strings.HasPrefix(p, "snapshots/"):
		var l api.LayerRef
		json.Unmarshal(body, &l) //nolint:errcheck // ours
		f.edit(func() {
			if !f.layers[l.ID].Durable {
				f.layers[l.ID] = l
			}
		})
		answer(w, 200, struct{}{})
	default:
		answer(w, 404, api.Error{Code: api.CodeNotFound, Text: r.URL.Path})
	}
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // a test's
}

func (f *fake) edit(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	f.announce()
}

func (f *fake) register(w http.ResponseWriter, body []byte) {
	var r api.Register
	json.Unmarshal(body, &r) //nolint:errcheck // ours
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.agents[r.Name]; old != nil && !old.left && old.reg.StoreID != r.StoreID {
		answer(w, 409, api.Error{Code: api.CodeNameTaken, Text: "held by another host"})
		return
	}
	a := &fakeAgent{id: newID(f.t), reg: r, holdings: map[snapshot.ID]bool{}}
	for _, h := range r.Holdings {
		a.holdings[h.ID] = true
	}
	f.agents[r.Name] = a
	out := api.Registered{Agent: a.id, LeaseMS: f.lease.Milliseconds(), HeartbeatMS: min(f.lease/10, 300*time.Millisecond).Milliseconds()}
	for _, ref := range r.Attempts {
		if at := f.attempts[ref.Attempt]; at == nil || at.finish != nil || at.fenced {
			out.Ended = append(out.Ended, ref.Attempt)
		}
	}
	f.announce()
	answer(w, 200, out)
}

func (f *fake) agentByID(id string) *fakeAgent {
	for _, a := range f.agents {
		if string(a.id) == id {
			return a
		}
	}
	return nil
}

func (f *fake) heartbeat(w http.ResponseWriter, id string, body []byte) {
	var h api.Heartbeat
	json.Unmarshal(body, &h) //nolint:errcheck // ours
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.agentByID(id)
	if a == nil {
		answer(w, 404, api.Error{Code: api.CodeNotFound, Text: "register again"})
		return
	}
	a.beats++
	a.evicted = [2]int64{h.Evicted, h.EvictedBytes}
	for _, x := range h.Holdings {
		a.holdings[x.ID] = !x.Gone
		if len(x.Of) > 0 {
			if a.of == nil {
				a.of = map[snapshot.ID][]api.Part{}
			}
			a.of[x.ID] = x.Of
		}
	}
	out := api.HeartbeatReply{Urgent: f.urgent}
	for _, ref := range h.Attempts {
		switch at := f.attempts[ref.Attempt]; {
		case at == nil || at.fenced:
			out.Fenced = append(out.Fenced, ref.Attempt)
		case at.cancel:
			out.Cancel = append(out.Cancel, ref.Attempt)
		}
	}
	f.announce()
	answer(w, 200, out)
}

func (f *fake) claims(w http.ResponseWriter, r *http.Request, id string, body []byte) {
	timer := time.After(time.Second)
	var q api.ClaimRequest
	json.Unmarshal(body, &q) //nolint:errcheck // ours
	f.edit(func() { f.offers = q.Offers })
	offered := func(c *api.Claim) bool {
		return c.External == nil || slices.ContainsFunc(q.Offers, func(o api.SlotOffer) bool {
			return c.External.Slot == 0 || c.External.Slot == o.Slot
		})
	}
	for {
		f.mu.Lock()
		a := f.agentByID(id)
		out := api.Claims{Claims: []api.Claim{}}
		for _, o := range q.Offers {
			if f.refuse == nil {
				break
			}
			if r := f.refuse(o); r != nil {
				out.Refused = append(out.Refused, *r)
			}
		}
		for _, at := range f.attempts {
			if a != nil && at.host == a.reg.Name && offered(&at.claim) && !at.accepted && time.Since(at.delivered) > 300*time.Millisecond && !at.fenced && at.finish == nil {
				at.delivered = time.Now()
				out.Claims = append(out.Claims, at.claim)
			}
		}
		ch := f.changed
		f.mu.Unlock()
		if a == nil {
			answer(w, 404, api.Error{Code: api.CodeNotFound, Text: "register again"})
			return
		}
		if len(out.Claims)+len(out.Refused) > 0 {
			answer(w, 200, out)
			return
		}
		select {
		case <-ch:
		case <-time.After(100 * time.Millisecond):
		case <-timer:
			answer(w, 200, out)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (f *fake) attempt(w http.ResponseWriter, r *http.Request, rest string, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, verb := rest, ""
	if i := strings.IndexAny(rest, ":/"); i >= 0 {
		id, verb = rest[:i], rest[i:]
	}
	a := f.attempts[snapshot.ID(id)]
	epoch, _ := strconv.ParseInt(r.Header.Get(api.HeaderEpoch), 10, 64)
	if a == nil || a.fenced || epoch != a.claim.Epoch {
		answer(w, 409, api.Error{Code: api.CodeFenced, Text: "fenced"})
		return
	}
	switch verb {
	case ":accept":
		a.accepted = true
	case ":start":
		a.start = &api.Start{}
		json.Unmarshal(body, a.start) //nolint:errcheck // ours
	case ":finish":
		f.finish(w, a, body)
		return
	case "/log":
		f.log(w, r, a, body)
		return
	}
	f.announce()
	answer(w, 200, struct{}{})
}

func (f *fake) finish(w http.ResponseWriter, a *fakeAttempt, body []byte) {
	if a.finish == nil {
		a.finish = &api.Finish{}
		json.Unmarshal(body, a.finish) //nolint:errcheck // ours
		if out := a.finish.Output; out != "" {
			f.nodes[out] = api.Node{ID: out, Parents: a.finish.Parents, Job: a.claim.Job.Name}
		}
		f.announce()
	}
	answer(w, 200, api.Finished{Output: a.finish.Output != ""})
}

func (f *fake) log(w http.ResponseWriter, r *http.Request, a *fakeAttempt, body []byte) {
	var from, to int64
	fmt.Sscanf(r.Header.Get("Content-Range"), "%d-%d", &from, &to) //nolint:errcheck // ours
	have := int64(len(a.log))
	if from > have {
		w.Header().Set(api.HeaderOffset, strconv.FormatInt(have, 10))
		answer(w, 416, api.Error{Text: "gap"})
		return
	}
	if !bytes.Equal(a.log[from:min(have, from+int64(len(body)))], body[:min(have-from, int64(len(body)))]) {
		f.t.Errorf("log of %s: other bytes at %d than before", a.claim.Attempt, from)
	}
	if end := from + int64(len(body)); end > have {
		a.log = append(a.log, body[have-from:]...)
	}
	w.Header().Set(api.HeaderOffset, strconv.Itoa(len(a.log)))
	f.announce()
	answer(w, 200, struct{}{})
}

// called counts calls whose method and path hold all of words.
func (f *fake) called(words ...string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(c, w) }) {
			n++
		}
	}
	return n
}
