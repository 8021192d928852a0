package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// TestMain looks for goroutines that outlive their plugin.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	realToken = "glrt-CANARYreal0123456789"
	slotToken = "roost-CANARYslot1-0123456789"
	jobToken  = "glcbt-CANARYjob-0123456789"
)

// fakeGitLab keeps the promises that GITLAB-RUNNER.md says GitLab keeps, for one or more jobs.
type fakeGitLab struct {
	t  testing.TB
	ts *httptest.Server

	mu    sync.Mutex
	jobs  map[string]*upJob
	calls []string                                                  // method path state
	fault func(r *http.Request, body []byte) (status int, hit bool) // before anything happens
	after func(r *http.Request, body []byte) bool                   // true: done, but the answer is lost
}

type upJob struct {
	token  string
	status string
	trace  []byte
	final  map[string]any
	ends   int
}

func newFakeGitLab(t testing.TB) *fakeGitLab {
	g := &fakeGitLab{t: t, jobs: map[string]*upJob{}}
	g.ts = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.ts.Close)
	return g
}

func (g *fakeGitLab) job(id string) upJob {
	g.mu.Lock()
	defer g.mu.Unlock()
	return *g.jobs[id]
}

func (g *fakeGitLab) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *fakeGitLab) count(prefix string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, c := range g.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (g *fakeGitLab) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var b map[string]any
	json.Unmarshal(body, &b)
	g.calls = append(g.calls, strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL.Path, " ", b["state"])))
	if g.fault != nil {
		if status, hit := g.fault(r, body); hit {
			if status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(status)
			return
		}
	}
	rec := httptest.NewRecorder()
	g.answer(rec, r, body, b)
	if g.after != nil && g.after(r, body) {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes())
}

func (g *fakeGitLab) answer(w http.ResponseWriter, r *http.Request, body []byte, b map[string]any) {
	p := strings.TrimPrefix(r.URL.Path, "/api/v4/")
	if p == "runners/verify" {
		if b["token"] != realToken || r.Header.Get("Runner-Token") != realToken {
			w.WriteHeader(403)
			return
		}
		fmt.Fprintf(w, `{"id":12345678901234567,"token":%q,"token_expires_at":"2027-01-01T00:00:00Z","x":1}`, realToken)
		return
	}
	id, rest, _ := strings.Cut(strings.TrimPrefix(p, "jobs/"), "/")
	j := g.jobs[id]
	if j == nil || r.Header.Get("Job-Token") != j.token {
		w.WriteHeader(403)
		return
	}
	w.Header().Set("Job-Status", j.status)
	w.Header().Set("X-GitLab-Trace-Update-Interval", "1")
	waits := j.status == "pending" && (r.Method != http.MethodPut || rest != "")
	if waits || j.status != "running" && j.status != "pending" && j.status != "canceling" {
		w.WriteHeader(403)
		return
	}
	if j.status == "pending" && b["state"] != "pending" && b["state"] != "running" {
		w.WriteHeader(400)
		return
	}
	switch {
	case rest == "" && r.Method == http.MethodPut:
		g.put(w, j, b)
	case rest == "trace" && r.Method == http.MethodPatch:
		start, end, _ := strings.Cut(r.Header.Get("Content-Range"), "-")
		from, _ := strconv.Atoi(start)
		to, _ := strconv.Atoi(end)
		require.Equal(g.t, len(body), to-from+1)
		if from != len(j.trace) {
			w.Header().Set("Range", fmt.Sprintf("0-%d", len(j.trace)))
			w.WriteHeader(416)
			return
		}
		j.trace = append(j.trace, body...)
		w.Header().Set("Range", fmt.Sprintf("0-%d", len(j.trace)))
		w.WriteHeader(202)
	default:
		w.WriteHeader(404)
	}
}

func (g *fakeGitLab) put(w http.ResponseWriter, j *upJob, b map[string]any) {
	switch b["state"] {
	case "pending":
		if j.status != "pending" {
			w.WriteHeader(400)
		}
	case "running":
		j.status = "running"
	case "success", "failed":
		if out, ok := b["output"].(map[string]any); ok {
			sum := fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE(j.trace))
			if out["checksum"] != sum || out["bytesize"] != float64(len(j.trace)) {
				g.t.Errorf("GitLab: trace of %d bytes, %s; told %v", len(j.trace), sum, out)
			}
		}
		j.status, j.final = b["state"].(string), b
		j.ends++
		w.Header().Set("Job-Status", j.status)
	}
}

// fakeAgent is an agent with a queue of jobs and a plan for each.
type fakeAgent struct {
	mu       sync.Mutex
	queue    chan *plugin.Grant
	attach   func(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error)
	seal     func(ctx context.Context, r plugin.SealRequest) (*plugin.Sealed, error)
	held     []plugin.Held
	offers   []plugin.Offer
	seals    []plugin.SealRequest
	discards []plugin.DiscardRequest
	refuse   error // of every claim
}

func newFakeAgent() *fakeAgent { return &fakeAgent{queue: make(chan *plugin.Grant, 100)} }

func (a *fakeAgent) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	a.mu.Lock()
	a.offers = append(a.offers, o)
	refuse := a.refuse
	a.mu.Unlock()
	if refuse != nil {
		return nil, refuse
	}
	select {
	case g := <-a.queue:
		g.Slot = o.Slot
		if o.Job != nil {
			g.Payload = o.Job
		}
		return g, nil
	case <-ctx.Done():
		return nil, nil
	}
}

func (a *fakeAgent) Attach(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
	if a.attach != nil {
		return a.attach(ctx, id, progress)
	}
	return workspace(), nil
}

func (a *fakeAgent) Seal(ctx context.Context, r plugin.SealRequest) (*plugin.Sealed, error) {
	a.mu.Lock()
	a.seals = append(a.seals, r)
	a.mu.Unlock()
	if a.seal != nil {
		return a.seal(ctx, r)
	}
	return &plugin.Sealed{Lines: []string{"roost: kept"}}, nil
}

func (a *fakeAgent) Discard(_ context.Context, d plugin.DiscardRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.discards = append(a.discards, d)
	return nil
}

func (a *fakeAgent) Held(context.Context) ([]plugin.Held, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held, nil
}

func (a *fakeAgent) outcomes() []plugin.Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []plugin.Outcome
	for _, d := range a.discards {
		out = append(out, d.Outcome)
	}
	return out
}

func (a *fakeAgent) sealed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seals)
}

const viewName = "abcdefghijklmnopqrstuvwxyz"

func workspace() *plugin.Workspace {
	return &plugin.Workspace{
		State: plugin.StateFull, View: "/srv/ws/slot1/" + viewName, Name: viewName,
		Contained: []string{"11"}, Lines: []string{"roost: FULL"},
		Env: map[string]string{"ROOST_WORKSPACE_STATE": "FULL"},
	}
}

// house is a plugin with its fakes around it.
type house struct {
	t     testing.TB
	gl    *fakeGitLab
	agent *fakeAgent
	as    plugin.Agent // agent, unless a test has its own
	p     *Plugin
	addr  string
	dir   string
	cfg   Config
	o     Options
	stop  func()
	aim   *aim
	idle  []func() // forget connections, of runners
}

// aim is a transport to GitLab that a test can point elsewhere.
type aim struct {
	base http.RoundTripper
	url  atomic.Pointer[url.URL]
}

func (a *aim) RoundTrip(r *http.Request) (*http.Response, error) {
	if u := a.url.Load(); u != nil {
		r.URL.Scheme, r.URL.Host = u.Scheme, u.Host
	}
	return a.base.RoundTrip(r)
}

func (a *aim) at(t testing.TB, target string) {
	u, err := url.Parse(target)
	require.NoError(t, err)
	a.url.Store(u)
}

func newHouse(t testing.TB, change ...func(*house)) *house {
	h := &house{t: t, gl: newFakeGitLab(t), agent: newFakeAgent(), dir: t.TempDir()}
	h.cfg = Config{
		URL: h.gl.ts.URL, Listen: []string{"127.0.0.1:0"}, BuildsDir: "/builds", Tokens: []string{realToken},
		Slots: []Slot{{Number: 1, Token: slotToken}, {Number: 2, Token: slotToken + "2"}},
		// A job waits for its first word longer than a busy disk takes.
		HoldMS: 2000, KeepAliveMS: 50, FinalMS: 3000, AckMS: 20_000, GoneMS: 200, SilentMS: 400, OrphanMS: 200, RetryMS: 5,
	}
	h.as = h.agent
	tr, err := newTransport("")
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	h.aim = &aim{base: tr}
	h.o.Transport = h.aim
	for _, f := range change {
		f(h)
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *house) start() {
	raw, err := json.Marshal(h.cfg)
	require.NoError(h.t, err)
	listening := make(chan net.Addr, 1)
	h.o.Listening = func(a []net.Addr) { listening <- append(a, &net.TCPAddr{})[0] }
	h.p = New(h.o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- h.p.Serve(ctx, plugin.Settings{Host: "host-a", Slots: numbers(h.cfg.Slots), Dir: h.dir, Config: raw}, h.as)
	}()
	select {
	case a := <-listening:
		if h.addr != a.String() { // a restart keeps the port, as a runner expects
			h.addr = a.String()
			if h.cfg.Executor != ExecutorCustom {
				h.cfg.Listen = []string{h.addr}
			}
		}
	case err := <-done:
		h.t.Fatal("serve: ", err)
	}
	h.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(h.t, <-done)
	})
}

func numbers(slots []Slot) []int {
	var out []int
	for _, s := range slots {
		out = append(out, s.Number)
	}
	return out
}

// grant queues a job of GitLab's.
func (h *house) grant(id string) snapshot.ID {
	attempt := snapshot.ID(fmt.Sprintf("%026s", id))
	attempt = snapshot.ID(strings.ReplaceAll(string(attempt), " ", "0"))
	const log = "roost: waiting for host-a\n"
	h.gl.set(func() {
		if h.gl.jobs[id] == nil {
			h.gl.jobs[id] = &upJob{token: jobToken + id, status: "running", trace: []byte(log)}
		}
	})
	h.agent.queue <- &plugin.Grant{Attempt: attempt, Payload: payload(id), Age: 10 * time.Second, Log: []byte(log)}
	return attempt
}

func payload(id string) []byte {
	return []byte(`{"id":` + id + `,"token":"` + jobToken + id + `","new_field":{"deep":[1e400,9007199254740993]},
	"allow_git_fetch":true,"job_info":{"name":"build"},"runner_info":{"timeout":3600,"other":1},
	"variables":[{"key":"CI","value":"true","public":true,"masked":false},{"key":"GIT_STRATEGY","value":"fetch","public":true},
	{"key":"GIT_CONFIG_COUNT","value":"1"},{"key":"GIT_CONFIG_KEY_0","value":"user.name"},{"key":"GIT_CONFIG_VALUE_0","value":"<me> & you"}],
	"dependencies":[{"id":11,"name":"a","token":"dep-CANARY-11","artifacts_file":{"filename":"a.zip","size":10}},
	{"id":12,"name":"b","token":"dep-CANARY-12","artifacts_file":{"filename":"b.zip","size":10}}]}`)
}

func attemptOf(id string) snapshot.ID {
	b := []byte("00000000000000000000000000")
	copy(b[26-len(id):], id)
	return snapshot.ID(b)
}

// runner is a very small GitLab Runner.
type runner struct {
	h    *house
	slot int
	sent bytes.Buffer
	c    *http.Client
}

func (h *house) runner(slot int) *runner {
	tr := &http.Transport{}
	h.t.Cleanup(tr.CloseIdleConnections)
	h.idle = append(h.idle, tr.CloseIdleConnections)
	return &runner{h: h, slot: slot, c: &http.Client{Transport: tr}}
}

func (r *runner) url(path string) string {
	return fmt.Sprintf("http://%s/slot%d/api/v4/%s", r.h.addr, r.slot, path)
}

func (r *runner) token() string {
	if r.slot == 1 {
		return slotToken
	}
	return slotToken + strconv.Itoa(r.slot)
}

func (r *runner) do(ctx context.Context, method, path, token string, body []byte, head ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.url(path), bytes.NewReader(body))
	require.NoError(r.h.t, err)
	if token != "" {
		req.Header.Set("Job-Token", token)
	}
	for i := 0; i+1 < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	resp, err := r.c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

const twoPhase = `"info":{"name":"gitlab-runner","features":{"two_phase_job_commit":true}},"system_id":"s_1"`

// request asks for a job.
func (r *runner) request(ctx context.Context) (int, map[string]any, error) {
	body := `{` + twoPhase + `,"token":"` + r.token() + `","session":{"url":"x"},"last_update":"y"}`
	resp, b, err := r.do(ctx, "POST", "jobs/request", "", []byte(body), "Runner-Token", r.token(), "X-Request-Id", "abc")
	if err != nil {
		return 0, nil, err
	}
	var m map[string]any
	json.Unmarshal(b, &m)
	return resp.StatusCode, m, nil
}

func (r *runner) must(id, state string, more ...string) (*http.Response, []byte) {
	r.h.t.Helper()
	resp, b, err := r.put(r.h.t.Context(), id, state, more...)
	require.NoError(r.h.t, err)
	return resp, b
}

func (r *runner) put(ctx context.Context, id, state string, more ...string) (*http.Response, []byte, error) {
	body := fmt.Sprintf(`{"info":{},"token":%q,"state":%q,"checksum":"crc32:%08x","output":{"checksum":"crc32:%08x","bytesize":%d}%s}`,
		jobToken+id, state, crc32.ChecksumIEEE(r.sent.Bytes()), crc32.ChecksumIEEE(r.sent.Bytes()), r.sent.Len(), strings.Join(more, ""))
	return r.do(ctx, "PUT", "jobs/"+id, jobToken+id, []byte(body), "Content-Type", "application/json")
}

// print sends a piece of trace, as the runner does: from GitLab's size if that is another.
func (r *runner) print(id, text string) int {
	r.h.t.Helper()
	r.sent.WriteString(text)
	all, at := r.sent.Bytes(), r.sent.Len()-len(text)
	for range 5 {
		resp, _, err := r.do(r.h.t.Context(), "PATCH", "jobs/"+id+"/trace?debug_trace=false", jobToken+id, all[at:],
			"Content-Range", fmt.Sprintf("%d-%d", at, len(all)-1), "Content-Type", "text/plain")
		require.NoError(r.h.t, err)
		if resp.StatusCode != 416 {
			return resp.StatusCode
		}
		at, err = strconv.Atoi(strings.TrimPrefix(resp.Header.Get("Range"), "0-"))
		require.NoError(r.h.t, err)
		require.LessOrEqual(r.h.t, at, len(all))
		if at == len(all) {
			return 202
		}
	}
	return 416
}

func eventually(t *testing.T, f func() bool, what string) {
	t.Helper()
	require.Eventually(t, f, time.Minute, 5*time.Millisecond, what)
}
