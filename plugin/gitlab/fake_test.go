package gitlab

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
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

const viewName = "abcdefghijklmnopqrstuvwxyz"

const twoPhase = `"info":{"name":"gitlab-runner","features":{"two_phase_job_commit":true}},"system_id":"s_1"`
