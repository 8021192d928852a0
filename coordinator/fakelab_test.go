package coordinator

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
)

const runnerToken = "glrt-runner-token-canary"

// labJob is a job in the fake.
type labJob struct {
	id      int64
	token   string
	state   string // pending, held (given out, not acknowledged), running, success, failed, canceled
	reason  string
	trace   []byte
	payload map[string]any
	given   int
	ends    int
	updates []string
}

// lab is as much of a GitLab as the coordinator sees. Faults are set by the test.
type lab struct {
	t    *testing.T
	http *httptest.Server

	mu       sync.Mutex
	jobs     map[int64]*labJob
	queue    []int64
	requests []map[string]any
	// twoPhase keeps jobs pending until they are acknowledged.
	twoPhase bool
	// hold is how long a request waits for a job.
	hold time.Duration
	// fault answers a call in the place of the lab if it returns true.
	fault func(w http.ResponseWriter, r *http.Request, after func()) bool
	// needs answers what a job needs; nil: it has no such keyword.
	needs map[int64][]string
	last  int
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, jobs: map[int64]*labJob{}}
	l.http = httptest.NewServer(l)
	t.Cleanup(l.http.Close)
	return l
}

// add puts a job into the queue.
func (l *lab) add(id int64, name, stage string, edit ...func(map[string]any)) *labJob {
	l.mu.Lock()
	defer l.mu.Unlock()
	token := fmt.Sprintf("job-token-canary-%d", id)
	p := map[string]any{
		"id": id, "token": token, "allow_git_fetch": true,
		"job_info":    map[string]any{"name": name, "stage": stage, "project_id": 7, "project_full_path": "group/demo", "pipeline_id": 100},
		"git_info":    map[string]any{"ref": "main", "sha": "0123456789abcdef0123456789abcdef01234567", "protected": false},
		"runner_info": map[string]any{"timeout": 3600},
		"variables":   []any{map[string]any{"key": "SECRET", "value": "variable-canary"}},
	}
	for _, f := range edit {
		f(p)
	}
	j := &labJob{id: id, token: token, state: "pending", payload: p}
	l.jobs[id] = j
	l.queue = append(l.queue, id)
	return j
}

// get reads a job under the lock.
func (l *lab) get(id int64) labJob {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := *l.jobs[id]
	j.trace = append([]byte{}, j.trace...)
	j.updates = append([]string{}, j.updates...)
	return j
}

// renew makes a job's token another one and puts it back into the queue, as if nobody
// had acknowledged it.
func (l *lab) renew(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := l.jobs[id]
	j.token += "-2"
	j.payload["token"], j.state = j.token, "pending"
	l.queue = append(l.queue, id)
}

// asked gives the requests for jobs so far.
func (l *lab) asked() []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.requests)
}

func (l *lab) cancel(id int64, state string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.jobs[id].state = state
}

func (l *lab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	l.mu.Lock()
	fault := l.fault
	l.mu.Unlock()
	serve := func(w http.ResponseWriter) {
		switch {
		case r.URL.Path == "/api/graphql":
			l.graphql(w, r, body)
		case r.URL.Path == "/api/v4/job":
			l.whose(w, r)
		case r.URL.Path == "/api/v4/jobs/request":
			l.request(w, r, body)
		case strings.HasSuffix(r.URL.Path, "/trace"):
			l.patch(w, r, body)
		default:
			l.update(w, r, body)
		}
	}
	if fault != nil && fault(w, r, func() { serve(httptest.NewRecorder()) }) {
		return
	}
	serve(w)
}

// whose says which job a token is of.
func (l *lab) whose(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.jobs {
		if j.token != r.Header.Get("JOB-TOKEN") || j.state == "success" || j.state == "failed" || j.state == "canceled" {
			continue
		}
		info, git := j.payload["job_info"].(map[string]any), j.payload["git_info"].(map[string]any)
		b, _ := json.Marshal(map[string]any{
			"id": j.id, "name": info["name"], "stage": info["stage"], "status": "running", "ref": git["ref"], "tag": git["ref_type"] == "tag",
			"pipeline": map[string]any{"id": info["pipeline_id"], "project_id": info["project_id"], "ref": git["ref"], "sha": git["sha"]},
			"web_url":  fmt.Sprintf("%s/%v/-/jobs/%d", l.http.URL, info["project_full_path"], j.id),
		})
		w.Write(b)
		return
	}
	w.WriteHeader(401)
	io.WriteString(w, `{"message":"401 Unauthorized"}`)
}

func (l *lab) request(w http.ResponseWriter, r *http.Request, body []byte) {
	var in map[string]any
	if json.Unmarshal(body, &in) != nil || in["token"] != runnerToken || r.Header.Get("RUNNER-TOKEN") != runnerToken {
		w.WriteHeader(403)
		return
	}
	l.mu.Lock()
	l.requests = append(l.requests, in)
	hold := l.hold
	l.mu.Unlock()
	for end := time.Now().Add(hold); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		if len(l.queue) > 0 {
			j := l.jobs[l.queue[0]]
			l.queue = l.queue[1:]
			j.given++
			j.state = "running"
			if l.twoPhase {
				j.state = "held"
			}
			b, _ := json.Marshal(j.payload)
			l.mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(201)
			w.Write(b)
			return
		}
		l.mu.Unlock()
		if time.Now().After(end) {
			l.mu.Lock()
			l.last++
			w.Header().Set("X-GitLab-Last-Update", strconv.Itoa(l.last))
			l.mu.Unlock()
			w.WriteHeader(204)
			return
		}
	}
}

func (l *lab) graphql(w http.ResponseWriter, r *http.Request, body []byte) {
	var in struct {
		Variables struct {
			Path string `json:"path"`
			Job  string `json:"job"`
		} `json:"variables"`
	}
	if json.Unmarshal(body, &in) != nil || r.Header.Get("Authorization") != "Bearer api-token-canary" || in.Variables.Path != "group/demo" {
		io.WriteString(w, `{"data":{"project":null}}`)
		return
	}
	id, _ := strconv.ParseInt(strings.TrimPrefix(in.Variables.Job, "gid://gitlab/Ci::Build/"), 10, 64)
	l.mu.Lock()
	defer l.mu.Unlock()
	kind, nodes := "stage", []any{}
	if names, ok := l.needs[id]; ok {
		kind = "dag"
		for _, n := range names {
			nodes = append(nodes, map[string]any{"name": n})
		}
	}
	b, _ := json.Marshal(map[string]any{"data": map[string]any{"project": map[string]any{"job": map[string]any{
		"schedulingType": kind, "needs": map[string]any{"nodes": nodes},
	}}}})
	w.Write(b)
}

// job finds the job of a call and checks its token; the lock is held.
func (l *lab) job(w http.ResponseWriter, r *http.Request) *labJob {
	id, _ := strconv.ParseInt(strings.Split(r.URL.Path, "/")[4], 10, 64)
	j := l.jobs[id]
	if j == nil || r.Header.Get("JOB-TOKEN") != j.token {
		w.WriteHeader(403)
		return nil
	}
	switch j.state {
	case "success", "failed", "canceled":
		w.Header().Set("Job-Status", j.state)
		w.WriteHeader(403)
		return nil
	case "held":
		w.Header().Set("Job-Status", "pending")
		if strings.HasSuffix(r.URL.Path, "/trace") {
			w.WriteHeader(403) // nobody acknowledged it: it has no log
			return nil
		}
	default:
		w.Header().Set("Job-Status", j.state)
	}
	return j
}

func (l *lab) update(w http.ResponseWriter, r *http.Request, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := l.job(w, r)
	if j == nil {
		return
	}
	var in struct {
		State  string `json:"state"`
		Reason string `json:"failure_reason"`
	}
	if json.Unmarshal(body, &in) != nil {
		w.WriteHeader(400)
		return
	}
	j.updates = append(j.updates, in.State)
	switch {
	case in.State == "pending" && j.state != "held":
		w.WriteHeader(400)
		return
	case in.State == "running":
		if j.state == "held" {
			j.state = "running"
		}
	case in.State == "failed" || in.State == "success":
		if j.state == "held" {
			w.WriteHeader(400)
			return
		}
		if j.state == "canceling" {
			in.State = "canceled"
		}
		j.state, j.reason = in.State, in.Reason
		j.ends++
	}
	w.WriteHeader(200)
}

func (l *lab) patch(w http.ResponseWriter, r *http.Request, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := l.job(w, r)
	if j == nil {
		return
	}
	from, to, _ := strings.Cut(r.Header.Get("Content-Range"), "-")
	a, _ := strconv.Atoi(from)
	b, _ := strconv.Atoi(to)
	if b-a+1 != len(body) {
		w.WriteHeader(400)
		return
	}
	if a != len(j.trace) {
		w.Header().Set("Range", fmt.Sprintf("0-%d", len(j.trace)))
		w.WriteHeader(416)
		return
	}
	j.trace = append(j.trace, body...)
	w.Header().Set("Range", fmt.Sprintf("0-%d", len(j.trace)))
	w.WriteHeader(202)
}

// newLabBench is a coordinator that asks a lab, on the real clock.
func newLabBench(t *testing.T, l *lab, edit ...func(*Options)) *bench {
	t.Helper()
	return newBench(t, append([]func(*Options){func(o *Options) {
		o.Now, o.GitLabURLs = time.Now, []string{l.http.URL + "/"}
		o.tune = func(g *gitlab.Options) {
			g.Interval, g.Retry, g.KeepAlive = 50*time.Millisecond, 20*time.Millisecond, 200*time.Millisecond
			g.FirstLine, g.NextLine = 100*time.Millisecond, 200*time.Millisecond
		}
	}}, edit...)...)
}

func (l *lab) pool() *api.Pool {
	return &api.Pool{System: api.SystemGitLab, Name: "linux", URL: l.http.URL + "/ci", Tokens: []string{runnerToken}}
}

// newLabHost registers a host of the lab's pool.
func (b *bench) newLabHost(l *lab, name string, slots int, edit ...func(*api.Register)) *host {
	b.t.Helper()
	h := &host{b: b, free: slots, reg: api.Register{
		Name: name, StoreID: newID(b.t), Session: newID(b.t), BootID: "boot", Slots: slots,
		Driver: "copy", OS: "linux", Arch: "amd64", Fingerprint: "linux/amd64", Pool: l.pool(),
	}}
	for _, f := range edit {
		f(&h.reg)
	}
	h.register()
	return h
}

// offer polls with all free slots for up to wait.
func (h *host) offer(wait time.Duration) []api.Claim {
	h.b.t.Helper()
	cs, err := h.c.Claims(h.b.t.Context(), h.id, h.offers(wait))
	require.NoError(h.b.t, err)
	return cs.Claims
}

func (h *host) offers(wait time.Duration) api.ClaimRequest {
	r := api.ClaimRequest{Session: h.reg.Session, FreeSlots: h.free, WaitMS: wait.Milliseconds()}
	for i := range h.free {
		r.Offers = append(r.Offers, api.SlotOffer{Slot: i + 1, Runner: json.RawMessage(
			`{"info":{"name":"gitlab-runner","version":"17.11.0","executor":"shell","platform":"linux","features":{"artifacts":true}},"token":"local","system_id":"s_` + h.reg.Name + `","session":{"url":"x"}}`)})
	}
	return r
}

// takes polls until there is a claim.
func (h *host) takes() api.Claim {
	h.b.t.Helper()
	cs := h.offer(20 * time.Second)
	for n := 0; n < 5 && len(cs) == 0; n++ {
		cs = h.offer(20 * time.Second)
	}
	require.Len(h.b.t, cs, 1)
	return cs[0]
}

func testLog(w io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: w, Level: hclog.Trace, JSONFormat: true})
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}
