package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

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

// gets asks for a job, which must come.
func (r *runner) gets() map[string]any {
	r.h.t.Helper()
	status, job, err := r.request(r.h.t.Context())
	require.NoError(r.h.t, err)
	require.Equal(r.h.t, http.StatusCreated, status)
	return job
}

// getsNone asks for a job in vain.
func (r *runner) getsNone() {
	r.h.t.Helper()
	status, _, err := r.request(r.h.t.Context())
	require.NoError(r.h.t, err)
	require.Equal(r.h.t, http.StatusNoContent, status)
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
